"""`python -m examples.river.pretrain`: see README.md beside this file."""

if __name__ == "__main__":
    # Imported here because each process that generates text imports this file too, and needs no torch.
    from examples.river.pretrain.make import main

    main()
