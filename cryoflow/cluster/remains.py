"""Former name of `orphaned_runs`, which systemd units of earlier versions start."""

if __name__ == "__main__":
    from cryoflow.cluster.orphaned_runs import main

    main()
