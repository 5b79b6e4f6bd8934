//! The programs that are compared, and one of them running.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::interrupt;
use crate::primary::{Installation, Primary, clean_command, stop, tail};
use crate::results::{BASELINE, Receiver};

mod standby;

pub use standby::{copy_primary, take_base_backup};

/// A receiver is given so long to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The baseline.
    PgReceivewal,
    /// Ours.
    Walring,
    /// A PostgreSQL standby.
    Standby,
    /// Acknowledges and throws away: what no receiver with a disk can beat.
    Floor,
}

/// What it is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To receive what is committed, as a synchronous standby.
    Live,
    /// To catch up, and end. It finds out by itself where to begin; the floor, which stores nothing, is told.
    Range {
        /// Where the range begins.
        first: u64,
        /// The last position it needs.
        last: u64,
    },
}

/// A program with its options, as it is compared.
#[derive(Debug, Clone)]
pub struct Contender {
    /// How runs name it.
    pub key: &'static str,
    /// What is run.
    pub program: Program,
    /// Its own options, besides those that all get.
    pub options: &'static [&'static str],
    name: &'static str,
    about: &'static str,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// PostgreSQL's.
    pub installation: Installation,
    /// Ours, or what `$WALRING` names.
    pub walring: PathBuf,
    own: PathBuf,
}

impl Programs {
    /// PostgreSQL's, and walring: `$WALRING`, or the one built beside this program.
    pub fn find() -> Result<Programs> {
        Programs::find_with(None)
    }

    /// The same, with this walring, if one is given.
    pub fn find_with(walring: Option<&Path>) -> Result<Programs> {
        let own = std::env::current_exe()?;
        let named = std::env::var_os("WALRING").map(PathBuf::from);
        let named = walring.map(Path::to_owned).or(named);
        let walring = named.unwrap_or_else(|| own.with_file_name("walring"));
        if !walring.is_file() {
            bail!(
                "no {}: build it (cargo build --release), or set WALRING to a walring",
                walring.display()
            );
        }
        Ok(Programs {
            installation: Installation::find()?,
            walring: walring.canonicalize()?,
            own,
        })
    }

    /// Whether `$WALRING` is a pg_receivewal: then it is measured against itself, which shows the noise.
    fn is_stand_in(&self) -> bool {
        self.walring
            .file_name()
            .is_some_and(|name| name == "pg_receivewal")
    }

    /// The program, and what comes before its options.
    pub fn command(&self, program: Program) -> Command {
        match program {
            Program::PgReceivewal => clean_command(&self.installation.path("pg_receivewal")),
            Program::Standby => self.installation.as_server("postgres"),
            Program::Walring if self.is_stand_in() => clean_command(&self.walring),
            Program::Walring => {
                let mut command = clean_command(&self.walring);
                command.arg("receive");
                command
            }
            Program::Floor => {
                let mut command = clean_command(&self.own);
                command.arg("floor");
                command
            }
        }
    }

    /// Whether `walring receive` has an option.
    fn walring_has(&self, option: &str) -> bool {
        let output = clean_command(&self.walring).args(["receive", "--help"]).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(option))
    }
}

/// All that can be compared here, and a sentence for each that cannot.
pub fn contenders(programs: &Programs) -> (Vec<Contender>, Vec<String>) {
    let mut skipped = Vec::new();
    let usable = |contender: &Contender| {
        let reason = match contender.options.first() {
            Some(_) if programs.is_stand_in() => {
                "the program that WALRING names is a pg_receivewal".to_owned()
            }
            Some(option) if !programs.walring_has(option.split('=').next().unwrap_or(option)) => {
                format!("this walring has no option {option}")
            }
            _ => return true,
        };
        skipped.push(format!("{} is left out: {reason}.", contender.key));
        false
    };
    let found = catalogue().into_iter().filter(usable).collect();
    (found, skipped)
}

fn catalogue() -> Vec<Contender> {
    let contender = |key, program, options, name, about| Contender {
        key,
        program,
        options,
        name,
        about,
    };
    let ours = Program::Walring;
    vec![
        contender(
            BASELINE,
            Program::PgReceivewal,
            &[],
            BASELINE,
            "PostgreSQL's own receiver, with --synchronous.",
        ),
        contender(
            "walring",
            ours,
            &[],
            "walring",
            "As it is by default: every record is verified.",
        ),
        contender(
            "walring-off",
            ours,
            &["--verify=off"],
            "walring, verify off",
            "Nothing is verified.",
        ),
        contender(
            "walring-spin",
            ours,
            &["--spin-us", "auto"],
            "walring, spinning",
            "Waits for the next commit without sleeping, where that shortens waits.",
        ),
        contender(
            "walring-dsync",
            ours,
            &["--durable-method=dsync"],
            "walring, dsync",
            "Durable by one write that is durable when it ends (RWF_DSYNC).",
        ),
        contender(
            "walring-fdatasync",
            ours,
            &["--durable-method=fdatasync"],
            "walring, fdatasync",
            "Durable by a write and then fdatasync.",
        ),
        contender(
            "standby",
            Program::Standby,
            &[],
            "standby",
            "A PostgreSQL standby; CPU, switches and memory are its walreceiver's, the replay is not counted.",
        ),
        contender(
            "floor",
            Program::Floor,
            &[],
            "floor",
            "Acknowledges at once and throws the WAL away: no receiver with a disk can be faster.",
        ),
    ]
}

impl Contender {
    /// How the results describe it.
    pub fn describe(&self, programs: &Programs) -> Receiver {
        let file = match self.program {
            Program::PgReceivewal => Some(programs.installation.path("pg_receivewal")),
            Program::Walring => Some(programs.walring.clone()),
            Program::Standby | Program::Floor => None,
        };
        let command = match self.program {
            Program::Standby => "postgres -D DIR".to_owned(),
            _ => self.shown_command(),
        };
        Receiver {
            key: self.key.to_owned(),
            name: self.name.to_owned(),
            about: self.about.to_owned(),
            command,
            binary_bytes: file.and_then(|file| Some(file.metadata().ok()?.len())),
        }
    }

    fn shown_command(&self) -> String {
        let program = match self.program {
            Program::PgReceivewal => "pg_receivewal",
            Program::Walring => "walring receive",
            Program::Standby => "postgres",
            Program::Floor => "walring-perf floor",
        };
        let mut words = vec![program];
        if self.program != Program::Floor {
            words.extend(["-D DIR", "--no-password", "--synchronous"]);
        }
        words.push("-d 'host=127.0.0.1 port=PORT user=postgres application_name=receiver'");
        words.extend(self.options);
        words.join(" ")
    }

    /// Whether it stores segments as the primary has them.
    pub fn stores_segments(&self) -> bool {
        matches!(self.program, Program::PgReceivewal | Program::Walring)
    }

    /// Starts it on a directory. It may not be connected yet.
    pub fn start(
        &self,
        programs: &Programs,
        primary: &Primary,
        directory: &Path,
        way: Way,
    ) -> Result<Running> {
        let mut command = programs.command(self.program);
        if self.program == Program::Standby {
            command.arg("-D").arg(directory);
        } else {
            command.env("PGPASSWORD", primary.password());
            command.arg("-d").arg(primary.receiver_conninfo());
        }
        if self.stores_segments() {
            command.arg("-D").arg(directory).arg("--no-password");
        }
        match way {
            Way::Live if self.stores_segments() => command.arg("--synchronous"),
            Way::Live => &mut command,
            Way::Range { .. } if self.stores_segments() => command.arg("--no-loop"),
            Way::Range { first, .. } => command.arg(format!("--startpos={}", shown_position(first))),
        };
        if let Way::Range { last, .. } = way {
            command.arg(format!("--endpos={}", shown_position(last)));
        }
        command.args(self.options);
        let log = tempfile::Builder::new().prefix("walring-perf-log-").tempfile()?;
        let output = File::options().append(true).open(log.path())?;
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("start {}", self.key))?;
        Ok(Running {
            key: self.key,
            program: self.program,
            child,
            log,
        })
    }
}

/// A position as PostgreSQL writes it.
pub fn shown_position(position: u64) -> String {
    format!("{:X}/{:08X}", position >> 32, position & 0xFFFF_FFFF)
}

/// A receiver that was started; killed when it goes out of scope without having been stopped.
pub struct Running {
    key: &'static str,
    program: Program,
    child: Child,
    log: NamedTempFile,
}

impl Running {
    /// Waits until commits wait for it.
    pub fn wait_until_synchronous(&mut self, primary: &mut Primary) -> Result<()> {
        let limit = Duration::from_secs(30);
        let synchronous = primary.wait_until(limit, "commits wait for the receiver", |primary| {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended by itself ({status})");
            }
            primary.has_synchronous_receiver()
        });
        self.explain(synchronous)
    }

    /// The process whose CPU and memory count: a standby's walreceiver, else the program's own.
    pub fn observed(&self) -> Result<u32> {
        match self.program {
            Program::Standby => standby::walreceiver(self.child.id()),
            _ => Ok(self.child.id()),
        }
    }

    /// Adds to an error which receiver it was and what it said last.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("{} failed; it said: {}", self.key, tail(self.log.path())))
    }

    /// Asks it to end; its exit code must be 0.
    pub fn stop(mut self) -> Result<()> {
        if self.program == Program::Standby {
            stop(&mut self.child, Signal::QUIT);
            return Ok(());
        }
        // pg_receivewal before PostgreSQL 16 ends on SIGINT only.
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("no process id")?;
        let asked = kill_process(pid, Signal::INT).context("it had ended by itself");
        self.explain(asked)?;
        self.wait(STOP_LIMIT)
    }

    /// Waits for its end by itself; its exit code must be 0.
    pub fn wait(&mut self, limit: Duration) -> Result<()> {
        let ended = self.wait_with(limit, || ());
        self.explain(ended)
    }

    /// As [`Running::wait`], and calls `look` again and again meanwhile.
    pub fn wait_with(&mut self, limit: Duration, mut look: impl FnMut()) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            look();
            if let Some(status) = self.child.try_wait()? {
                return if status.success() {
                    Ok(())
                } else {
                    Err(anyhow::anyhow!("it ended with {status}"))
                };
            }
            interrupt::check()?;
            if Instant::now() > end {
                bail!("it did not end within {} s", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let last = if self.program == Program::Standby {
            Signal::QUIT
        } else {
            Signal::KILL
        };
        stop(&mut self.child, last);
    }
}
