"""What people's files hold, read with care: texts, numbers, YAML, and the files of a folder."""
