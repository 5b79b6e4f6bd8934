//! A disk on which receivers are compared: a directory that was given, or an emulated disk.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, pwritev2};
use tempfile::TempDir;

use crate::disk::{self, EdgeDisk, PROFILES, Profile};
use crate::observe::{self, Device};
use crate::results::Disk;

/// Durable writes that are timed.
const DURABLE_WRITES: usize = 101;
const BLOCK: usize = 4096;

/// A disk and the directory on it. What is made in it is removed with it.
pub struct Site {
    key: String,
    about: String,
    /// Goes before the disk that it is on.
    directory: TempDir,
    edge: Option<EdgeDisk>,
    /// Median of a durable write, ms.
    durable_write_ms: f64,
    filesystem: String,
    device: Option<String>,
}

impl Site {
    /// The disk that holds `directory`, which is made if it is not there.
    pub fn given(directory: &Path) -> Result<Site> {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let (filesystem, source) = mount_of(directory)?;
        if filesystem == "tmpfs" {
            bail!(
                "{} is in memory, where a flush costs nothing: use --dir with a directory on a disk",
                directory.display()
            );
        }
        let about = format!("The disk of the directory given ({filesystem} on {source}).");
        Site::new("given".to_owned(), about, directory, None)
    }

    /// The disk with this key: `given`, or an emulated one; the reason where that is not possible here.
    pub fn find(key: &str, directory: &Path) -> Result<std::result::Result<Site, String>> {
        if key == "given" {
            return Site::given(directory).map(Ok);
        }
        let Some(profile) = Profile::named(key) else {
            let keys: Vec<&str> = PROFILES.iter().map(|profile| profile.key).collect();
            bail!("--disk: no \"{key}\"; there are given, {}", keys.join(", "));
        };
        let edge = match EdgeDisk::new(profile) {
            Ok(edge) => edge,
            Err(disk::Error::Unavailable(reason)) => return Ok(Err(reason)),
            Err(error) => return Err(error.into()),
        };
        let parent = edge.path().to_owned();
        let about = format!("{}.", upper_case(profile.about));
        Site::new(key.to_owned(), about, &parent, Some(edge)).map(Ok)
    }

    fn new(key: String, about: String, parent: &Path, edge: Option<EdgeDisk>) -> Result<Site> {
        let directory = tempfile::Builder::new()
            .prefix("walring-perf-")
            .tempdir_in(parent)?;
        // A standby's directory below it belongs to another user.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
        let (filesystem, source) = mount_of(directory.path())?;
        Ok(Site {
            key,
            about,
            durable_write_ms: time_durable_write(directory.path())?,
            device: source.starts_with('/').then_some(source),
            filesystem,
            directory,
            edge,
        })
    }

    /// `given`, or an emulated disk's profile.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it is the directory given.
    pub fn is_given(&self) -> bool {
        self.key == "given"
    }

    /// Whether a flush takes milliseconds here.
    pub fn is_slow(&self) -> bool {
        self.durable_write_ms > 2.0
    }

    /// A directory on it, for receivers.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A new directory for one receiver.
    pub fn new_directory(&self) -> Result<TempDir> {
        Ok(tempfile::Builder::new()
            .prefix("receiver-")
            .tempdir_in(self.directory.path())?)
    }

    /// Everything that was written to it so far is on it now, so that it does not fall into the next run.
    pub fn settle(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(self.path())?)?)
    }

    /// What was written to it so far.
    pub fn written(&self) -> Option<Device> {
        match &self.edge {
            None => observe::device(self.path()),
            Some(edge) => {
                let counters = edge.counters().ok()?;
                Some(Device {
                    bytes_written: counters.bytes_written,
                    flushes: counters.flushes,
                })
            }
        }
    }

    /// How the results describe it.
    pub fn describe(&self) -> Disk {
        Disk {
            key: self.key.clone(),
            about: self.about.clone(),
            filesystem: self.filesystem.clone(),
            device: self.device.clone(),
            set_flush_ms: self
                .edge
                .as_ref()
                .map(|edge| edge.profile().flush.as_secs_f64() * 1e3),
            durable_write_ms: self.durable_write_ms,
            cases: Vec::new(),
        }
    }
}

fn upper_case(sentence: &str) -> String {
    let mut letters = sentence.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// The type of the file system that holds a path, and what is mounted there.
pub fn mount_of(path: &Path) -> Result<(String, String)> {
    let path = path
        .canonicalize()
        .with_context(|| format!("find {}", path.display()))?;
    let device = path.metadata()?.dev();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    // Of those that hold the path the longest is meant, and of equals the last, which covers the others.
    let mut best: Option<(usize, bool, String, String)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = before.split(' ').collect();
        let mut behind = after.split(' ');
        let (Some(number), Some(point)) = (fields.get(2), fields.get(4)) else {
            continue;
        };
        let (Some(filesystem), Some(source)) = (behind.next(), behind.next()) else {
            continue;
        };
        if !path.starts_with(PathBuf::from(point.replace("\\040", " "))) {
            continue;
        }
        let same_device = *number == format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let better = best
            .as_ref()
            .is_none_or(|(length, same, ..)| (same_device, point.len()) >= (*same, *length));
        if better {
            best = Some((point.len(), same_device, filesystem.to_owned(), source.to_owned()));
        }
    }
    let (_, _, filesystem, source) = best.with_context(|| format!("no mount holds {}", path.display()))?;
    Ok((filesystem, source))
}

/// The median of a direct and durable write of one block into space that was written before, ms.
fn time_durable_write(directory: &Path) -> Result<f64> {
    let scratch = tempfile::Builder::new().prefix("probe-").tempfile_in(directory)?;
    // Space that is written already: what comes there changes no metadata.
    scratch.as_file().write_all(&[0; 4 * BLOCK])?;
    scratch.as_file().sync_all()?;
    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = File::options()
        .write(true)
        .custom_flags(flags)
        .open(scratch.path())
        .with_context(|| {
            format!(
                "no direct I/O in {}: use --dir with a directory on a disk",
                directory.display()
            )
        })?;
    let mut memory = vec![0x5A_u8; 2 * BLOCK];
    let from = memory.as_ptr().align_offset(BLOCK);
    let block = &mut memory[from..from + BLOCK];
    let mut times = Vec::with_capacity(DURABLE_WRITES);
    for _ in 0..DURABLE_WRITES {
        let start = Instant::now();
        let written = pwritev2(&file, &[IoSlice::new(block)], 0, ReadWriteFlags::DSYNC)?;
        ensure!(written == BLOCK, "a write took {written} of {BLOCK} bytes");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[DURABLE_WRITES / 2])
}
