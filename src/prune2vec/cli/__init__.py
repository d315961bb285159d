"""The command line: one file a verb in ``verbs/``, each of which parses, calls one public function and prints one result."""
