//! The program under test, and how it names itself.

use std::path::PathBuf;
use std::process::Command;

use super::postgres::clean;

/// A command line of the program under test, up to where the options begin.
///
/// `WALRING_BIN=/usr/lib/postgresql/15/bin/pg_receivewal` puts the program that walring replaces in its place: a test of
/// what both must do has to pass there, and a test of what walring does better has to fail.
pub fn receive() -> Command {
    match replaced() {
        Some(path) => clean(Command::new(path)),
        None => {
            let mut command = clean(Command::new(env!("CARGO_BIN_EXE_walring")));
            command.arg("receive");
            command
        }
    }
}

/// What stands before the colon of every message.
pub fn name() -> String {
    let path = replaced().unwrap_or_else(|| PathBuf::from("walring"));
    path.file_name()
        .expect("a program has a name")
        .to_string_lossy()
        .into_owned()
}

/// A whole error line.
pub fn error(text: &str) -> String {
    format!("{}: error: {text}", name())
}

fn replaced() -> Option<PathBuf> {
    std::env::var_os("WALRING_BIN").map(PathBuf::from)
}
