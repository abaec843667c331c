"""Write phantoms: ``python -m swinunetr.data.phantoms FOLDER --cases 1 2 35``."""

from swinunetr.data.phantoms.writing import main

main()
