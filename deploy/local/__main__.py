"""`python -m penstock.deploy.local` is `penstock`: how the launcher starts its children."""

from penstock.deploy.local.cli.main import main

if __name__ == "__main__":
    main()
