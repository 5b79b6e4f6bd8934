//! Help texts. Written by hand, in pg_receivewal's order and groups; a test holds them against the options there are.

/// Help on the program; `{name}` stands for its name.
pub(super) const PROGRAM: &str = "\
{name} receives PostgreSQL streaming write-ahead logs, and makes them durable fast.

Usage:
  {name} COMMAND [OPTION]...

Commands:
  receive                stream write-ahead log into a directory, as pg_receivewal does
  config check           look for mistakes in a configuration file, and show what counts
  verify                 check stored segments: every page and every record
  inspect                tell what is in stored segments
  probe                  measure how long durable writes take on a directory's disk
  top                    show what a running receiver does

Options:
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit

Try \"{name} COMMAND --help\" for the options of a command. Called by the name
pg_receivewal, the program takes the options of that command alone.
";

/// Help on `receive`; `{name}` stands for all that has to be typed to get there.
pub(super) const RECEIVE: &str = "\
{name} receives PostgreSQL streaming write-ahead logs.

Usage:
  {name} [OPTION]...

Options:
  -D, --directory=DIR    receive write-ahead log files into this directory
  -E, --endpos=LSN       exit after receiving the specified LSN
      --if-not-exists    do not error if slot already exists when creating a slot
  -n, --no-loop          do not loop on connection lost
      --no-sync          do not wait for changes to be written safely to disk
  -s, --status-interval=SECS
                         time between status packets sent to server (default: 10)
  -S, --slot=SLOTNAME    replication slot to use
      --synchronous      flush write-ahead log immediately after writing
  -v, --verbose          output verbose messages
  -V, --version          output version information, then exit
  -Z, --compress=METHOD  only \"none\" is supported yet
  -?, --help             show this help, then exit

Connection options:
  -d, --dbname=CONNSTR   connection string
  -h, --host=HOSTNAME    database server host or socket directory
  -p, --port=PORT        database server port number
  -U, --username=NAME    connect as specified database user
  -w, --no-password      never prompt for password
  -W, --password         force password prompt (should happen automatically)

Optional actions:
      --create-slot      create a new replication slot (for the slot's name see --slot)
      --drop-slot        drop the replication slot (for the slot's name see --slot)

Options that pg_receivewal does not have:
      --start-lsn=LSN    where to start if the directory holds no segment
      --receive-timeout=SECS
                         give up a server that is silent for so long (default: 60, 0: never)
      --log-format=FORMAT
                         \"text\" (default) or \"json\"
      --buffered         write through the page cache, for file systems without direct I/O
      --on-disk-full=ACTION
                         \"wait\" for room and go on (default), or \"exit\"
      --latency-report   print a summary of latencies at exit, as SIGUSR1 does at any time
      --verify=LEVEL     what of the received WAL is checked before it is acknowledged:
                         \"records\" (default), \"pages\" or \"off\"
      --durable-method=METHOD
                         \"auto\" (default), \"dsync\" or \"fdatasync\"
      --spin-us=MICROSECONDS
                         wait for the next commit so long without sleeping (default: 0);
                         \"auto\": while it shortens waits; takes up to one processor
      --histogram-log=FILE
                         log histograms of latencies to this file, for HdrHistogram's tools
      --baseline=FILE    estimate the time saved for each transaction against this histogram,
                         as \"probe --baseline-out\" writes it
      --listen=ADDR:PORT serve metrics and health over HTTP here
      --config=FILE      read options from this TOML file; those given here override it
      --slot-mode=MODE   what to do if the slot does not exist: \"require\" (default): tell and
                         try again, or \"create\"
      --slot-watch=CONNSTR
                         warn before the server gives the slot up, asking over a connection of
                         its own; \"same\": as the stream, to the database \"postgres\"

Example, with a slot that keeps the server from removing what is not yet received:
  {name} --create-slot --slot=archive --host=db1
  {name} --directory=/archive --slot=archive --host=db1 --synchronous
";
