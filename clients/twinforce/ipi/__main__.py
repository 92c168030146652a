"""Print the path of the file that i-PI loads."""

import sys

from twinforce.ipi import PES_PATH

if __name__ == "__main__":
    sys.stdout.write(f"{PES_PATH}\n")
