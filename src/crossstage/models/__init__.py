"""Networks: backbones, necks and heads as tables of rows, and the models that they are composed to."""
