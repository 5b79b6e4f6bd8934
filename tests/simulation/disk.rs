//! A disk that loses what it may lose.
//!
//! A file is sectors of 512 bytes, as they read now and as a crash leaves them; the directory is names, in the same two
//! states. Only a durable write or a sync that *ended* carries over. In a crash each sector that was written
//! since keeps any of the contents it had, by chance, also sectors of writes that had not ended; and of the changes
//! of names that no sync of the directory covers the last ones are lost: a journal keeps their order, and walring
//! relies on that where it finishes a segment and names the next under one sync. A sync that fails leaves everything it
//! covered clean and lost, but for chance: a second sync has nothing left to do, and succeeds. Until the
//! process ends the new bytes still read back; the next one reads what the disk has.

use std::collections::BTreeMap;
use std::io;

use crate::model::Rng;
use crate::model::wal::resize;

const SECTOR: usize = 512;

/// What fails, in a thousand operations of a kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A write ends with EIO.
    pub write: u64,
    /// A sync of a file, of the directory or of the file system.
    pub sync: u64,
    /// A rename.
    pub rename: u64,
    /// A new file finds no room.
    pub full: u64,
    /// A write finds no room.
    pub write_full: u64,
    /// A write is short.
    pub short: u64,
}

/// A file, by the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(usize);

/// A write in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteId(u64);

/// A sync in flight: it covers what had ended before it.
#[derive(Debug, Clone, Copy)]
pub struct SyncId {
    file: FileId,
    covers: u64,
}

/// Bytes that a crash may lose.
struct Dirty {
    from: usize,
    bytes: Vec<u8>,
    number: u64,
}

struct File {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// The write that gave each sector its durable content.
    numbers: Vec<u64>,
    dirty: Vec<Dirty>,
    /// Where a sync failed, the content reads back until the process ends.
    is_doubtful: bool,
}

struct Flight {
    id: WriteId,
    file: FileId,
    from: usize,
    bytes: Vec<u8>,
}

/// A change of names: the file had the one and has the other.
#[derive(Clone)]
struct NameChange {
    file: FileId,
    from: Option<String>,
    to: Option<String>,
}

/// Files, names and what fails.
pub struct Disk {
    pub faults: Faults,
    files: Vec<File>,
    flights: Vec<Flight>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    changes: Vec<NameChange>,
    /// A sync of the directory failed: its names read back until the process ends.
    are_names_doubtful: bool,
    /// Changes of names that syncs have taken care of, so that those in flight find theirs.
    settled_changes: usize,
    number: u64,
    /// Operations until something happens to the machine or the process.
    pub countdown: Option<u64>,
    rng: Rng,
}

/// An error as the kernel reports it.
fn failure(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;

impl Disk {
    /// An empty directory.
    pub fn new(seed: u64) -> Disk {
        Disk {
            faults: Faults::default(),
            files: Vec::new(),
            flights: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            are_names_doubtful: false,
            settled_changes: 0,
            number: 0,
            countdown: None,
            rng: Rng::new(seed ^ 0xD15C),
        }
    }

    fn fails(&mut self, thousandths: u64) -> bool {
        self.rng.between(0, 999) < thousandths
    }

    /// An operation begins or ends. Once the time is up, nothing has an effect any more.
    fn step(&mut self) -> io::Result<()> {
        if self.is_time_up() {
            return Err(failure(EIO));
        }
        self.countdown = self.countdown.map(|left| left - 1);
        Ok(())
    }

    /// Whether the operations until something is to happen have all been.
    pub fn is_time_up(&self) -> bool {
        self.countdown == Some(0)
    }

    // ---- reading ----

    /// The names as they are now.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The file of a name.
    pub fn find(&self, name: &str) -> Option<FileId> {
        self.names.get(name).copied()
    }

    /// What reading a file returns.
    pub fn content(&self, file: FileId) -> &[u8] {
        &self.files[file.0].content
    }

    /// The bytes of a file that every crash keeps.
    pub fn durable_content(&self, file: FileId) -> &[u8] {
        &self.files[file.0].durable
    }

    /// What a crash leaves at least: names, and the bytes that every crash keeps.
    pub fn durable(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let files = &self.files;
        (self.durable_names.iter()).map(|(name, file)| (name.as_str(), &files[file.0].durable[..]))
    }

    // ---- files ----

    /// A new file of so many bytes, all zero.
    pub fn create(&mut self, name: &str, size: usize) -> io::Result<FileId> {
        self.step()?;
        if self.names.contains_key(name) {
            return Err(failure(EEXIST));
        }
        let file = FileId(self.files.len());
        self.files.push(File {
            content: vec![0; size],
            durable: Vec::new(),
            numbers: Vec::new(),
            dirty: Vec::new(),
            is_doubtful: false,
        });
        self.change(file, None, Some(name));
        if self.fails(self.faults.full) {
            return Err(failure(ENOSPC));
        }
        Ok(file)
    }

    /// Makes a file that is shorter so long, or empties it.
    pub fn resize(&mut self, file: FileId, size: usize) -> io::Result<()> {
        self.step()?;
        let file = &mut self.files[file.0];
        if size == 0 {
            file.dirty.clear();
            file.numbers.clear();
        }
        resize(&mut file.content, size);
        Ok(())
    }

    /// Writes a small file in one go.
    pub fn store(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let file = match self.find(name) {
            Some(file) => {
                self.resize(file, 0)?;
                file
            }
            None => self.create(name, 0)?,
        };
        self.land(file, 0, content.to_vec());
        let sync = self.begin_sync(file);
        self.end_sync(sync)
    }

    /// The kernel takes a write.
    pub fn begin_write(&mut self, file: FileId, from: usize, bytes: Vec<u8>) -> WriteId {
        let _ = self.step();
        self.number += 1;
        let id = WriteId(self.number);
        self.flights.push(Flight {
            id,
            file,
            from,
            bytes,
        });
        id
    }

    /// A write ends: how many bytes were taken.
    pub fn end_write(&mut self, id: WriteId, durable: Durable) -> io::Result<usize> {
        let index = self.flights.iter().position(|flight| flight.id == id);
        let Flight {
            file, from, bytes, ..
        } = self.flights.remove(index.expect("in flight"));
        self.step()?;
        let sectors = (bytes.len() / SECTOR) as u64;
        let (fails, is_full) = (self.fails(self.faults.write), self.fails(self.faults.write_full));
        let is_short = self.fails(self.faults.short) && sectors > 1;
        let taken = match (fails || is_full, is_short) {
            (true, _) => self.rng.between(0, sectors - 1) as usize * SECTOR,
            (false, true) => self.rng.between(1, sectors - 1) as usize * SECTOR,
            (false, false) => bytes.len(),
        };
        self.land(file, from, bytes[..taken].to_vec());
        if fails {
            return Err(failure(EIO));
        }
        if is_full && taken == 0 {
            return Err(failure(ENOSPC));
        }
        match durable {
            // The kernel syncs what it took of a durable write, be it short.
            Durable::Range => self.settle(file, self.number, self.number),
            // A sync behind the write comes with the whole of it only.
            Durable::File if taken == bytes.len() => {
                let sync = self.begin_sync(file);
                self.end_sync(sync)?;
            }
            Durable::File | Durable::No => {}
        }
        Ok(taken)
    }

    /// The bytes are where reading finds them.
    fn land(&mut self, file: FileId, from: usize, bytes: Vec<u8>) {
        self.number += 1;
        let end = from + bytes.len();
        let file = &mut self.files[file.0];
        if file.content.len() < end {
            resize(&mut file.content, end);
        }
        file.content[from..end].copy_from_slice(&bytes);
        file.dirty.push(Dirty {
            from,
            bytes,
            number: self.number,
        });
    }

    // ---- durability ----

    /// A sync of a file begins.
    pub fn begin_sync(&mut self, file: FileId) -> SyncId {
        let _ = self.step();
        SyncId {
            file,
            covers: self.number,
        }
    }

    /// A sync of a file ends.
    pub fn end_sync(&mut self, sync: SyncId) -> io::Result<()> {
        self.step()?;
        if self.fails(self.faults.sync) {
            self.lose(sync.file, sync.covers);
            return Err(failure(EIO));
        }
        self.settle(sync.file, 0, sync.covers);
        Ok(())
    }

    /// Everything that was done is made durable.
    pub fn sync_file_system(&mut self) -> io::Result<()> {
        for index in 0..self.files.len() {
            let sync = self.begin_sync(FileId(index));
            self.end_sync(sync)?;
        }
        let changes = self.begin_directory_sync();
        self.end_directory_sync(changes)
    }

    /// The writes of a file from one number to another become durable, and so does its size.
    fn settle(&mut self, file: FileId, from: u64, to: u64) {
        let file = &mut self.files[file.0];
        let dirty = std::mem::take(&mut file.dirty);
        let (settled, rest): (Vec<_>, Vec<_>) = dirty
            .into_iter()
            .partition(|dirty| (from..=to).contains(&dirty.number));
        file.dirty = rest;
        file.keep_size();
        for dirty in settled {
            for sector in 0..dirty.bytes.len().div_ceil(SECTOR) {
                file.keep(&dirty, sector);
            }
        }
    }

    /// The writes that a failed sync covered become durable or are lost, sector by sector; for the kernel all is well.
    fn lose(&mut self, file: FileId, to: u64) {
        let (rng, file) = (&mut self.rng, &mut self.files[file.0]);
        let dirty = std::mem::take(&mut file.dirty);
        let (lost, rest): (Vec<_>, Vec<_>) = dirty.into_iter().partition(|dirty| dirty.number <= to);
        file.dirty = rest;
        file.is_doubtful = true;
        let percent = rng.pick(&[0, 50, 95]);
        file.keep_some(rng, percent, &lost);
    }

    // ---- names ----

    /// Changes a name.
    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        let file = self.find(from).ok_or_else(|| failure(ENOENT))?;
        if self.fails(self.faults.rename) {
            return Err(failure(EIO));
        }
        self.change(file, Some(from), Some(to));
        Ok(())
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step()?;
        let file = self.find(name).ok_or_else(|| failure(ENOENT))?;
        self.change(file, Some(name), None);
        Ok(())
    }

    fn change(&mut self, file: FileId, from: Option<&str>, to: Option<&str>) {
        let change = NameChange {
            file,
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    /// A sync of the directory begins: which changes it covers.
    pub fn begin_directory_sync(&mut self) -> usize {
        let _ = self.step();
        self.settled_changes + self.changes.len()
    }

    /// A sync of the directory ends. If it fails, all that it covered is lost but for the first few.
    pub fn end_directory_sync(&mut self, covers: usize) -> io::Result<()> {
        self.step()?;
        let count = covers.saturating_sub(self.settled_changes);
        let fails = self.fails(self.faults.sync);
        let kept = match fails {
            true => self.rng.between(0, count as u64) as usize,
            false => count,
        };
        self.settled_changes += count;
        self.are_names_doubtful |= fails;
        for change in self.changes.drain(..count).take(kept) {
            change.apply(&mut self.durable_names);
        }
        match fails {
            true => Err(failure(EIO)),
            false => Ok(()),
        }
    }

    // ---- accidents ----

    /// The process ends: its writes in flight are taken, in part or not at all.
    pub fn kill(&mut self) {
        self.countdown = None;
        for flight in std::mem::take(&mut self.flights) {
            let sectors = (flight.bytes.len() / SECTOR) as u64;
            let most = self.rng.between(0, 2 * sectors).min(sectors) as usize;
            if most > 0 {
                self.land(flight.file, flight.from, flight.bytes[..most * SECTOR].to_vec());
            }
        }
        if self.are_names_doubtful {
            self.forget_names();
        }
        for file in self.files.iter_mut().filter(|file| file.is_doubtful) {
            file.forget();
            for dirty in &file.dirty {
                let end = dirty.from + dirty.bytes.len();
                file.content.resize(end.max(file.content.len()), 0);
                file.content[dirty.from..end].copy_from_slice(&dirty.bytes);
            }
        }
    }

    fn forget_names(&mut self) {
        self.are_names_doubtful = false;
        self.names = self.durable_names.clone();
        for change in &self.changes {
            change.apply(&mut self.names);
        }
    }

    /// The machine loses its power.
    pub fn crash(&mut self) {
        self.countdown = None;
        let percent = self.rng.pick(&[0, 10, 50, 90, 100]);
        for flight in std::mem::take(&mut self.flights) {
            self.number += 1;
            self.files[flight.file.0].dirty.push(Dirty {
                from: flight.from,
                bytes: flight.bytes,
                number: self.number,
            });
        }
        let rng = &mut self.rng;
        for file in &mut self.files {
            let dirty = std::mem::take(&mut file.dirty);
            if file.durable.len() != file.content.len() && rng.chance(percent.max(50)) {
                file.keep_size();
            }
            file.keep_some(rng, percent, &dirty);
            file.forget();
        }
        let kept = match rng.chance(percent) {
            true => self.changes.len(),
            false => rng.between(0, self.changes.len() as u64) as usize,
        };
        for change in self.changes.drain(..).take(kept) {
            change.apply(&mut self.durable_names);
        }
        self.forget_names();
    }
}

/// What is durable when a write ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// Nothing.
    No,
    /// What it wrote.
    Range,
    /// What it wrote and what was written to the file before: a sync follows the write.
    File,
}

impl File {
    /// The file's size survives from now on; bytes that do not are zero.
    fn keep_size(&mut self) {
        resize(&mut self.durable, self.content.len());
        self.numbers.resize(self.content.len().div_ceil(SECTOR), 0);
    }

    /// A sector of a write survives from now on, unless it has a later content, or lies behind the end.
    fn keep(&mut self, dirty: &Dirty, sector: usize) {
        let from = dirty.from + sector * SECTOR;
        let number = self.numbers.get_mut(from / SECTOR);
        if let Some(number) = number.filter(|number| **number < dirty.number) {
            *number = dirty.number;
            let bytes = &dirty.bytes[sector * SECTOR..dirty.bytes.len().min((sector + 1) * SECTOR)];
            self.durable[from..from + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn keep_some(&mut self, rng: &mut Rng, percent: u64, writes: &[Dirty]) {
        for dirty in writes {
            for sector in 0..dirty.bytes.len().div_ceil(SECTOR) {
                if rng.chance(percent) {
                    self.keep(dirty, sector);
                }
            }
        }
    }

    /// What is not on the disk is gone.
    fn forget(&mut self) {
        self.content.clone_from(&self.durable);
        self.is_doubtful = false;
    }
}

impl NameChange {
    fn apply(self: &NameChange, names: &mut BTreeMap<String, FileId>) {
        if let Some(from) = &self.from
            && names.get(from) == Some(&self.file)
        {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.file);
        }
    }
}
