//! An attempt to connect, made by libpq and by walring, and what came of it: seen by the server, and said on stderr.

use std::path::Path;
use std::process::Command;

use super::process::{Exit, Process};
use super::server::Server;
use super::words::{said, seen};
use super::{Installation, program};

/// The slot that every attempt asks for: made once, found by the others.
const SLOT: &str = "attempt";

/// Options with which both programs connect, make sure of a slot, and end.
const OPTIONS: [&str; 5] = [
    "--no-loop",
    "--no-password",
    "--create-slot",
    "--if-not-exists",
    "--slot",
];

/// What is given to both programs.
#[derive(Debug, Clone, Default)]
pub struct Attempt {
    /// The connection string, behind what leads to the server.
    settings: String,
    environment: Vec<(String, String)>,
    /// By way of the server's socket.
    socket: bool,
    /// How libpq has to end, for those cases where the test would be void if it did otherwise.
    expected: Option<bool>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub connected: bool,
    /// What the server says of the connection: its role, whether TLS protects it and in which version, how it was
    /// authenticated and as whom.
    pub seen: Vec<String>,
    /// What the program says of the connection, without its name and the words of the TLS library.
    pub said: Vec<String>,
}

/// A program that connects.
#[derive(Debug, Clone)]
pub enum Client {
    /// `pg_receivewal`, with the `libpq` of this directory in the place of its own.
    Libpq(Option<String>),
    /// The program under test.
    Walring,
}

/// Attempts that libpq and walring are compared by; what differs is collected, so that one run shows all of it.
pub struct Comparison<'a> {
    server: &'a Server,
    reference: Client,
    home: tempfile::TempDir,
    compared: usize,
    differences: Vec<String>,
}

impl Attempt {
    /// With these settings in the connection string.
    pub fn with(settings: impl Into<String>) -> Attempt {
        Attempt {
            settings: settings.into(),
            ..Attempt::default()
        }
    }

    /// With a variable in the environment, too.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Attempt {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// By way of the server's Unix socket, not of TCP.
    pub fn on_socket(mut self) -> Attempt {
        self.socket = true;
        self
    }

    /// libpq succeeds: else the case would not show what it is meant to show.
    pub fn succeeds(mut self) -> Attempt {
        self.expected = Some(true);
        self
    }

    /// libpq fails.
    pub fn fails(mut self) -> Attempt {
        self.expected = Some(false);
        self
    }

    /// What leads to the server; a later value in the settings takes the place of one here.
    fn aim(&self, server: &Server) -> String {
        let directory = server.socket_directory().display();
        match self.socket {
            true => format!("host={directory} port={}", server.port()),
            false => at_port(server.port()),
        }
    }
}

impl Client {
    /// The newest libpq with TLS there is: that of 17, or else the distribution's own.
    pub fn newest_libpq() -> Client {
        let Some(installation) = Installation::version(17) else {
            return Client::Libpq(None);
        };
        let lib = installation.path("postgres").with_file_name("../lib");
        Client::Libpq(Some(lib.display().to_string()))
    }

    /// Whether it is libpq 16 or newer, which has much of what walring has.
    pub fn is_new(&self) -> bool {
        !matches!(self, Client::Libpq(None))
    }

    fn command(&self) -> Command {
        match self {
            Client::Walring => program::receive(),
            Client::Libpq(lib) => {
                let mut command = Installation::standard().command("pg_receivewal");
                if let Some(lib) = lib {
                    command.env("LD_LIBRARY_PATH", lib);
                }
                command
            }
        }
    }

    /// Makes the attempt, with a home directory.
    pub fn attempt(&self, server: &Server, home: &Path, attempt: &Attempt) -> Outcome {
        let before = server.log().len();
        let exit = self.start(&attempt.aim(server), home, attempt).finish();
        Outcome {
            connected: exit.code == Some(0),
            seen: seen(&server.log()[before..]),
            said: said(&exit.stderr),
        }
    }

    /// Makes the attempt on a port of this machine, where something listens that is no PostgreSQL.
    pub fn meet(&self, port: u16, attempt: &Attempt) -> Exit {
        let home = tempfile::tempdir().expect("create a home directory");
        self.start(&at_port(port), home.path(), attempt).finish()
    }

    fn start(&self, aim: &str, home: &Path, attempt: &Attempt) -> Process {
        let mut command = self.command();
        command.args(OPTIONS).arg(SLOT);
        command.args(["-d", &format!("{aim} {}", attempt.settings)]);
        command.env("HOME", home).env("PGAPPNAME", "attempt");
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.env_remove(name);
        }
        command.envs(attempt.environment.iter().map(|(name, value)| (name, value)));
        Process::spawn(command)
    }
}

/// What leads to a port of this machine, and a name to verify.
fn at_port(port: u16) -> String {
    format!("host=localhost hostaddr=127.0.0.1 port={port}")
}

impl<'a> Comparison<'a> {
    /// With the newest libpq.
    pub fn on(server: &'a Server) -> Comparison<'a> {
        Comparison::with(server, Client::newest_libpq())
    }

    /// With this libpq.
    pub fn with(server: &'a Server, reference: Client) -> Comparison<'a> {
        Comparison {
            server,
            reference,
            home: tempfile::tempdir().expect("create a home directory"),
            compared: 0,
            differences: Vec::new(),
        }
    }

    /// Whether the reference is libpq 16 or newer.
    pub fn is_new(&self) -> bool {
        self.reference.is_new()
    }

    /// The home directory of both programs.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Both make the attempt; what libpq's came to.
    #[track_caller]
    pub fn compare(&mut self, attempt: &Attempt) -> Outcome {
        self.compare_as("", attempt)
    }

    /// The same, with a name for what the attempt itself does not show.
    #[track_caller]
    pub fn compare_as(&mut self, what: &str, attempt: &Attempt) -> Outcome {
        let theirs = self.reference.attempt(self.server, self.home(), attempt);
        let ours = Client::Walring.attempt(self.server, self.home(), attempt);
        if let Some(expected) = attempt.expected {
            assert_eq!(
                theirs.connected, expected,
                "{what} {attempt:?}: libpq: {theirs:#?}"
            );
        }
        self.compared += 1;
        if theirs != ours {
            let Attempt {
                settings,
                environment,
                ..
            } = attempt;
            self.differences.push(format!(
                "{what} {settings:?} {environment:?}\n  libpq:   {theirs:?}\n  walring: {ours:?}"
            ));
        }
        theirs
    }

    /// Fails with everything that differed.
    #[track_caller]
    pub fn finish(self) {
        let (count, all) = (self.differences.len(), self.compared);
        assert!(all > 0, "nothing was compared");
        assert!(
            count == 0,
            "{count} of {all} differ:\n{}",
            self.differences.join("\n")
        );
    }
}
