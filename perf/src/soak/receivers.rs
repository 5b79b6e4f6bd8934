//! A receiver that is watched for a long time: started, held up, ended and started again.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::primary::tail;
use crate::receiver::{Program, Programs};

/// A receiver is given so long to end when it is asked to: only one that hangs takes as long.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Walring, with what it is started with each time.
pub struct Receiver {
    /// Its name for the primary, of its slot, and for people.
    pub name: &'static str,
    programs: Programs,
    arguments: Vec<String>,
    password: String,
    log: PathBuf,
    /// How far its log was read.
    seen: u64,
    child: Option<Child>,
    /// The process's id for those who watch it, 0 while there is none.
    pub process: Arc<AtomicU32>,
    begun: Instant,
    /// The longest that one of its processes lived.
    pub longest: Duration,
    /// How often it was started.
    pub starts: u64,
    /// Lines of its log that tell of a full disk.
    pub full_disks: u64,
}

impl Receiver {
    /// Nothing runs yet. `arguments` go behind those that each needs.
    pub fn new(
        name: &'static str,
        programs: &Programs,
        port: u16,
        password: &str,
        directory: &Path,
        log: PathBuf,
        more: &[&str],
    ) -> Receiver {
        let conninfo = format!("host=127.0.0.1 port={port} user=postgres application_name={name}");
        let directory_text = directory.display().to_string();
        let needed = [
            "-D",
            &directory_text,
            "-S",
            name,
            "--no-password",
            "-d",
            &conninfo,
        ];
        let arguments = needed.iter().chain(more).map(ToString::to_string);
        Receiver {
            name,

            programs: programs.clone(),
            arguments: arguments.collect(),
            password: password.to_owned(),
            log,
            seen: 0,
            child: None,
            process: Arc::default(),
            begun: Instant::now(),
            longest: Duration::ZERO,
            starts: 0,
            full_disks: 0,
        }
    }

    /// Starts it.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().append(true).create(true).open(&self.log)?;
        let mut command = self.programs.command(Program::Walring);
        command.args(&self.arguments).env("PGPASSWORD", &self.password);
        command.stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("start the {}", self.name))?;
        self.process.store(child.id(), Ordering::SeqCst);
        self.child = Some(child);
        self.begun = Instant::now();
        self.starts += 1;
        Ok(())
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        Some(self.child.as_ref()?.id())
    }

    /// It must not have ended by itself, nor have said that it panicked.
    pub fn check(&mut self) -> Result<()> {
        self.read_log()?;
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        if let Some(status) = ended {
            self.child = None;
            self.process.store(0, Ordering::SeqCst);
            bail!(
                "the {} ended by itself ({status}); it said: {}",
                self.name,
                tail(&self.log)
            );
        }
        self.longest = self.longest.max(self.age());
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.with_context(|| format!("the {} does not run", self.name))?;
        kill_process(pid, signal).with_context(|| format!("signal the {}", self.name))
    }

    /// Ends it, and waits for that. Asked to end, it must do so with exit code 0.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.check()?;
        self.process.store(0, Ordering::SeqCst);
        self.signal(signal)?;
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let limit = Instant::now() + END_LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > limit {
                self.child = Some(child);
                bail!("the {} did not end within {} s", self.name, END_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if signal != Signal::KILL && !status.success() {
            bail!(
                "the {} ended with {status}; it said: {}",
                self.name,
                tail(&self.log)
            );
        }
        self.read_log()
    }

    /// How long its process has lived.
    fn age(&self) -> Duration {
        match self.child {
            Some(_) => self.begun.elapsed(),
            None => Duration::ZERO,
        }
    }

    /// What it said since the last time.
    fn read_log(&mut self) -> Result<()> {
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(self.seen))?;
        let mut said = Vec::new();
        log.read_to_end(&mut said)?;
        // A line that is not complete is read again.
        let complete = said
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.seen += complete as u64;
        let said = String::from_utf8_lossy(&said[..complete]);
        self.full_disks += said.matches("No space left on device").count() as u64;
        match said.lines().find(|line| line.contains("panicked")) {
            Some(line) => bail!("the {} panicked: {line}", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
