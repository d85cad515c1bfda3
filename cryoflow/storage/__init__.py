"""Files that we write and read: atomic writes, fingerprints, safe names, files of other people."""
