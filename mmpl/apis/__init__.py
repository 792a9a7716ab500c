"""The work behind ``tools/``. Import the module you need: nothing is imported here."""
