"""Studies: small trainings and conversions that say whether a claim of the papers holds here."""
