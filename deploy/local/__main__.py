"""`python -m deploy.local` is `penstock`: how the launcher starts its children."""

from deploy.local.cli import main

if __name__ == "__main__":
    main()
