use std::time::Duration;

use super::*;
use crate::core::lsn::Lsn;
use crate::core::spin::SpinLimit;
use crate::core::wal::Verify;
use crate::edge::durable_method::DurableMethod;
use crate::edge::full_disk::OnDiskFull;
use crate::edge::logging::LogFormat;
use crate::edge::options::SlotMode;

fn parsed(line: &[&str]) -> std::result::Result<Command, Exit> {
    parse(line.iter().map(OsString::from))
}

/// What is printed for `args`, under the name pg_receivewal.
fn refusal(args: &[&str]) -> String {
    parsed(&[&["/usr/bin/pg_receivewal"], args].concat())
        .unwrap_err()
        .to_string()
}

fn received(args: &[&str]) -> ReceiveOptions {
    let line = [&["pg_receivewal", "-D", "/"], args].concat();
    match parsed(&line) {
        Ok(Command::Receive(options)) => *options,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn printed(line: &[&str]) -> String {
    match parsed(line) {
        Ok(Command::Print(text)) => text,
        other => panic!("{line:?}: {other:?}"),
    }
}

#[test]
fn defaults_are_those_of_pg_receivewal() {
    let expected = ReceiveOptions {
        directory: "/".into(),
        endpos: None,
        start_lsn: None,
        no_loop: false,
        status_interval: Some(Duration::from_secs(10)),
        receive_timeout: Some(Duration::from_secs(60)),
        slot: None,
        slot_mode: SlotMode::Require,
        slot_watch: None,
        synchronous: false,
        no_sync: false,
        buffered: false,
        on_disk_full: OnDiskFull::Wait,
        latency_report: false,
        verify: Verify::Records,
        durable_method: DurableMethod::Auto,
        spin: SpinLimit::Off,
        histogram_log: None,
        baseline: None,
        listen: None,
        log: LogOptions {
            verbose: false,
            format: LogFormat::Text,
        },
        connection: ConnectionOptions {
            file: None,
            dbname: None,
            host: None,
            port: None,
            username: None,
            password: PromptMode::WhenAsked,
            program_name: "pg_receivewal".to_owned(),
        },
    };
    assert_eq!(received(&[]), expected);
}

#[test]
fn long_options_set_what_they_say() {
    let options = received(&[
        "--endpos=1/A",
        "--no-loop",
        "--status-interval=3",
        "--slot=s",
        "--verbose",
        "--dbname=d",
        "--host=h",
        "--port=p",
        "--username=u",
        "--no-password",
        "--compress=none",
        "--synchronous",
        "--start-lsn=0/5",
        "--receive-timeout=0",
        "--log-format=json",
        "--buffered",
        "--latency-report",
        "--on-disk-full=exit",
        "--if-not-exists",
    ]);
    assert_eq!(
        (options.endpos, options.start_lsn),
        (Some(Lsn(0x1_0000_000A)), Some(Lsn(5)))
    );
    assert!(options.no_loop && options.synchronous && options.buffered && options.latency_report);
    assert_eq!(
        (options.status_interval, options.receive_timeout),
        (Some(Duration::from_secs(3)), None)
    );
    assert_eq!(options.slot.as_deref(), Some("s"));
    assert_eq!(options.on_disk_full, OnDiskFull::Exit);
    assert_eq!(
        options.log,
        LogOptions {
            verbose: true,
            format: LogFormat::Json
        }
    );
    let connection = options.connection;
    assert_eq!(connection.dbname, Some("d".to_owned().into()));
    let texts = [connection.host, connection.port, connection.username];
    assert_eq!(texts.map(Option::unwrap), ["h", "p", "u"]);
    assert_eq!(connection.password, PromptMode::Never);
    assert!(received(&["--no-sync"]).no_sync);
}

#[test]
fn short_options_cluster_and_the_last_of_two_wins() {
    let options = received(&[
        "-nvvWE0/5",
        "-s0",
        "-S",
        "a",
        "-Sb",
        "-dd",
        "-h",
        "h",
        "-pp",
        "-U",
        "u",
        "-Z0",
    ]);
    assert!(options.no_loop && options.log.verbose);
    assert_eq!((options.endpos, options.status_interval), (Some(Lsn(5)), None));
    assert_eq!(options.slot.as_deref(), Some("b"));
    assert_eq!(options.connection.host.as_deref(), Some("h"));
    assert_eq!(options.connection.password, PromptMode::Always);
    assert_eq!(received(&["-W", "-w"]).connection.password, PromptMode::Never);
    assert_eq!(received(&["-w", "-W"]).connection.password, PromptMode::Always);
}

#[test]
fn long_options_can_be_abbreviated_and_values_begin_with_a_dash() {
    let options = received(&["--sy", "--st", "4", "--sl=-x", "--dbn", "--host", "--dir", "/tmp"]);
    assert_eq!(options.status_interval, Some(Duration::from_secs(4)));
    assert_eq!((options.slot.as_deref(), options.synchronous), (Some("-x"), true));
    assert_eq!(options.connection.dbname, Some("--host".to_owned().into()));
    assert_eq!(options.directory, PathBuf::from("/tmp"));
}

#[test]
fn an_end_position_of_zero_is_none() {
    assert_eq!(received(&["-E", "0/0"]).endpos, None);
}

#[test]
fn slot_actions_need_a_slot_but_no_directory() {
    let line = [
        "walring",
        "receive",
        "--create-slot",
        "--if-not-exists",
        "-S",
        "s",
        "-v",
    ];
    let Ok(Command::CreateSlot(options)) = parsed(&line) else {
        panic!()
    };
    assert_eq!(
        (options.slot.as_str(), options.if_not_exists, options.log.verbose),
        ("s", true, true)
    );
    let line = ["pg_receivewal", "--drop-slot", "--slot=s", "-D", "/nowhere"];
    let Ok(Command::DropSlot(options)) = parsed(&line) else {
        panic!()
    };
    assert_eq!((options.slot.as_str(), options.if_not_exists), ("s", false));
}

#[test]
fn misuse_is_refused_in_the_words_of_pg_receivewal_with_a_hint() {
    let cases: [(&[&str], &str); 16] = [
        (&[], "no target directory specified"),
        (
            &["-D", "/", "a", "b"],
            "too many command-line arguments (first is \"a\")",
        ),
        (
            &["--create-slot", "--drop-slot"],
            "cannot use --create-slot together with --drop-slot",
        ),
        (
            &["--create-slot"],
            "--create-slot needs a slot to be specified using --slot",
        ),
        (
            &["--drop-slot"],
            "--drop-slot needs a slot to be specified using --slot",
        ),
        (
            &["--synchronous", "--no-sync"],
            "cannot use --synchronous together with --no-sync",
        ),
        (&["--foo"], "unrecognized option '--foo'"),
        (&["--foo=bar"], "unrecognized option '--foo'"),
        (&["-x"], "invalid option -- 'x'"),
        (&["-nx"], "invalid option -- 'x'"),
        (&["-D"], "option '--directory' requires an argument"),
        (&["--slot"], "option '--slot' requires an argument"),
        (&["--verbose=1"], "option '--verbose' doesn't allow an argument"),
        (
            &["--ver"],
            "option '--ver' is ambiguous; possibilities: '--verbose' '--version' '--verify'",
        ),
        (
            &["--h"],
            "option '--h' is ambiguous; possibilities: '--help' '--host' '--histogram-log'",
        ),
        (
            &["-D", "/", "-"],
            "too many command-line arguments (first is \"-\")",
        ),
    ];
    for (args, message) in cases {
        let hint = "pg_receivewal: hint: Try \"pg_receivewal --help\" for more information.";
        assert_eq!(
            refusal(args),
            format!("pg_receivewal: error: {message}\n{hint}"),
            "{args:?}"
        );
    }
}

#[test]
fn bad_values_are_refused_in_the_words_of_pg_receivewal_without_a_hint() {
    let range = "must be in range 0..2147483";
    let cases: [(&[&str], &str); 11] = [
        (
            &["-s", "abc"],
            "invalid value \"abc\" for option -s/--status-interval",
        ),
        (&["-s", ""], "invalid value \"\" for option -s/--status-interval"),
        (&["-s", "-1"], &format!("-s/--status-interval {range}")),
        (&["-s", "2147484"], &format!("-s/--status-interval {range}")),
        (
            &["-s", "99999999999999999999"],
            &format!("-s/--status-interval {range}"),
        ),
        (
            &["--receive-timeout", "1s"],
            "invalid value \"1s\" for option --receive-timeout",
        ),
        (
            &["-E", "123456789/0"],
            "could not parse end position \"123456789/0\"",
        ),
        (&["-E", "1/2/3"], "could not parse end position \"1/2/3\""),
        (&["--start-lsn", "1"], "could not parse start position \"1\""),
        (
            &["-D", "/nowhere"],
            "could not open directory \"/nowhere\": No such file or directory",
        ),
        (
            &["-D", ""],
            "could not open directory \"\": No such file or directory",
        ),
    ];
    for (args, message) in cases {
        assert_eq!(
            refusal(args),
            format!("pg_receivewal: error: {message}"),
            "{args:?}"
        );
    }
    assert_eq!(received(&["--spin-us=auto"]).spin, SpinLimit::Auto);
    assert_eq!(
        received(&["--spin-us=50"]).spin,
        SpinLimit::Fixed(Duration::from_micros(50))
    );
    assert!(refusal(&["--spin-us=-1"]).contains("invalid value \"-1\" for option --spin-us"));
    assert!(refusal(&["--spin-us=1000001"]).contains("--spin-us must be in range 0..1000000"));
    assert!(refusal(&["--log-format=xml"]).contains("invalid value \"xml\" for option --log-format\n"));
}

#[test]
fn only_no_compression_is_accepted_and_others_are_named() {
    for none in ["none", "0", "00", ""] {
        received(&["-Z", none]);
    }
    let cases = [
        (
            "none:1",
            "invalid compression specification: compression algorithm \"none\" does not accept a compression level",
        ),
        ("foo", "unrecognized compression algorithm: \"foo\""),
        ("foo:1", "unrecognized compression algorithm: \"foo\""),
        ("NONE", "unrecognized compression algorithm: \"NONE\""),
        (":1", "unrecognized compression algorithm: \"\""),
        ("gzip", "compression with gzip is not supported yet"),
        ("5", "compression with gzip is not supported yet"),
        ("lz4:3", "compression with lz4 is not supported yet"),
        ("zstd:level=3", "compression with zstd is not supported yet"),
    ];
    for (specification, message) in cases {
        let line = refusal(&["-D", "/", "--compress", specification]);
        assert_eq!(line, format!("pg_receivewal: error: {message}"));
    }
}

#[test]
fn checks_come_in_the_order_of_pg_receivewal() {
    let mut args = vec![
        "-D",
        "/nowhere",
        "-Z",
        "foo",
        "--synchronous",
        "--no-sync",
        "--create-slot",
        "--drop-slot",
        "extra",
        "-s",
        "x",
    ];
    let expected = [
        (2, "invalid value \"x\""),
        (1, "too many command-line arguments"),
        (1, "cannot use --create-slot together"),
        (1, "--create-slot needs a slot"),
        (2, "cannot use --synchronous"),
        (2, "unrecognized compression algorithm"),
        (2, "could not open directory"),
        (0, "no target directory"),
    ];
    for (take, message) in expected {
        // What was complained about goes, and the next check speaks.
        assert!(refusal(&args).contains(message), "{args:?}: {}", refusal(&args));
        args.truncate(args.len() - take);
    }
}

#[test]
fn under_its_own_name_the_program_wants_a_command_and_hints_at_its_help() {
    let refusal = |line: &[&str]| parsed(line).unwrap_err().to_string();
    let hint = "walring: hint: Try \"walring --help\" for more information.";
    assert_eq!(
        refusal(&["walring"]),
        format!("walring: error: no command specified\n{hint}")
    );
    assert_eq!(
        refusal(&[]),
        format!("walring: error: no command specified\n{hint}")
    );
    assert_eq!(
        refusal(&["/bin/walring", "-D"]),
        format!("walring: error: unrecognized command \"-D\"\n{hint}")
    );
    assert_eq!(
        refusal(&["walring", "receive"]),
        "walring: error: no target directory specified\n\
         walring: hint: Try \"walring receive --help\" for more information."
    );
}

#[test]
fn the_version_is_told_under_either_name() {
    for flag in ["-V", "--version"] {
        assert_eq!(printed(&["walring", flag]), "walring 0.1.0\n");
        assert_eq!(
            printed(&["walring", "receive", flag, "--nonsense"]),
            "walring 0.1.0\n"
        );
        assert_eq!(
            printed(&["/x/pg_receivewal", flag]),
            "pg_receivewal (walring) 0.1.0\n"
        );
        assert_eq!(
            printed(&["pg_receivewal", "-n", flag]),
            "pg_receivewal (walring) 0.1.0\n"
        );
    }
}

#[test]
fn help_names_the_caller_and_every_option_within_95_columns() {
    for flag in ["-?", "--help"] {
        let texts = [
            printed(&["walring", flag]),
            printed(&["walring", "receive", flag]),
            printed(&["pg_receivewal", flag, "--nonsense"]),
        ];
        for (text, name) in texts.iter().zip(["walring", "walring receive", "pg_receivewal"]) {
            assert!(text.starts_with(&format!("{name} receives PostgreSQL")));
            assert!(text.contains(&format!("Usage:\n  {name} ")) && !text.contains('{'));
            assert!(text.lines().all(|line| line.len() <= 95), "{text}");
        }
        for option in Arguments::options() {
            assert!(texts[1].contains(&option), "{option}");
        }
    }
}
