//! The command line: the options of `pg_receivewal`, checked in its order and refused in its words.
mod common;

use common::receiver::run;
use common::{Archive, Process, program};

#[test]
fn help_goes_to_stdout_in_lines_that_fit() {
    let exit = run(&["--help"]);
    exit.assert_success();
    assert!(exit.stderr.is_empty(), "{exit:#?}");
    assert!(exit.stdout.contains("--synchronous"), "{exit:#?}");
    assert!(
        exit.stdout.lines().all(|line| line.chars().count() <= 95),
        "{exit:#?}"
    );
}

#[test]
fn version_goes_to_stdout() {
    let exit = run(&["--version"]);
    exit.assert_success();
    assert!(exit.stderr.is_empty(), "{exit:#?}");
    assert!(exit.stdout.starts_with(&program::name()), "{exit:#?}");
}

#[test]
fn an_unknown_option_is_refused_on_stderr() {
    let exit = run(&["--not-a-valid-option"]);
    assert_ne!(exit.code, Some(0), "{exit:#?}");
    assert!(exit.stdout.is_empty(), "{exit:#?}");
    assert!(!exit.stderr.is_empty(), "{exit:#?}");
}

#[test]
fn without_a_directory_it_says_how_to_get_help() {
    let exit = run(&[]);
    exit.assert_error(&program::error("no target directory specified"));
    assert!(exit.has_line_with(&["hint: Try", "--help"]), "{exit:#?}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let cases: &[(&[&str], &str)] = &[
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
            &["-D", "/tmp", "--synchronous", "--no-sync"],
            "cannot use --synchronous together with --no-sync",
        ),
        (
            &["-D", "/tmp", "surplus"],
            "too many command-line arguments (first is \"surplus\")",
        ),
    ];
    for (arguments, message) in cases {
        run(arguments).assert_error(&program::error(message));
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["-s", "abc"],
            "invalid value \"abc\" for option -s/--status-interval",
        ),
        (&["-s", "-1"], "-s/--status-interval must be in range 0..2147483"),
        (
            &["--status-interval=2147484"],
            "-s/--status-interval must be in range 0..2147483",
        ),
        (
            &["--endpos", "somewhere"],
            "could not parse end position \"somewhere\"",
        ),
    ];
    for (arguments, message) in cases {
        run(&[&["-D", "/tmp"], *arguments].concat()).assert_error(&program::error(message));
    }
}

#[test]
fn an_end_position_with_something_behind_it_is_refused() {
    for position in ["123456789/0", "1/2/3", "0/1x", " 0/1", "0x0/1"] {
        let message = format!("could not parse end position \"{position}\"");
        run(&["-D", "/tmp", "--endpos", position]).assert_error(&program::error(&message));
    }
}

#[test]
fn options_of_its_own_are_checked_too() {
    for option in ["--start-lsn=here", "--receive-timeout=soon", "--log-format=xml"] {
        let exit = run(&["-D", "/tmp", option]);
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let (name, value) = option.split_once('=').unwrap();
        let named = exit.has_line_with(&["error: ", value]) || exit.has_line_with(&["error: ", name]);
        assert!(named, "{option}: {exit:#?}");
    }
}

#[test]
fn a_directory_that_cannot_be_opened_is_named_before_anything_connects() {
    let archive = Archive::new();
    archive.write("file", b"");
    let cases = [
        ("missing", "No such file or directory"),
        ("file", "Not a directory"),
    ];
    for (name, reason) in cases {
        let path = archive.file(name).display().to_string();
        let exit = run(&["-n", "-D", &path, "-h", "/nonexistent"]);
        exit.assert_error(&program::error(&format!(
            "could not open directory \"{path}\": {reason}"
        )));
    }
}

#[test]
fn a_wrong_connection_string_is_refused() {
    let archive = Archive::new();
    let directory = archive.path().to_str().unwrap();
    let exit = run(&["-n", "-D", directory, "-d", "foo=bar"]);
    exit.assert_error(&program::error("invalid connection option \"foo\""));
}

#[test]
fn long_options_may_be_abbreviated() {
    run(&["--dir=/nonexistent", "--no-l"]).assert_error(&program::error(
        "could not open directory \"/nonexistent\": No such file or directory",
    ));
}

#[test]
fn walring_says_its_version_and_its_commands() {
    for (argument, expected) in [("--version", env!("CARGO_PKG_VERSION")), ("--help", "receive")] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_walring"));
        command.arg(argument);
        let exit = Process::spawn(command).finish();
        exit.assert_success();
        assert!(exit.stdout.contains(expected), "{exit:#?}");
    }
}

#[test]
fn the_compression_method_is_checked() {
    let none = "invalid compression specification: compression algorithm \"none\" does not accept a compression level";
    let unknown = "unrecognized compression algorithm: \"foo\"";
    for (method, message) in [("none:1", none), ("foo", unknown)] {
        run(&["-D", "/tmp", "--compress", method]).assert_error(&program::error(message));
    }
}
