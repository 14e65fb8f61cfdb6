"Mutated files through the public readers: `python tests/fuzz/drive.py --cases 1000`"
