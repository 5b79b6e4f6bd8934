//! What the kernel, its limits and the file system allow.

use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::mount::{Device, FileSystem, Mount};
use crate::edge::directory::Directory;
use crate::error::{Error, Result, system_text};
use crate::ring::{features, setup};

/// Everything that decides whether and how walring can receive here. What is not known is null.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// The kernel's release.
    pub kernel: String,
    /// The ring.
    pub io_uring: IoUring,
    /// The memory that the ring must lock.
    pub locked_memory: LockedMemory,
    /// Writes past the page cache.
    pub direct_io: DirectIo,
    /// The directory's file system.
    pub file_system: FileSystem,
    /// The disk below.
    pub device: Device,
}

/// Whether there is a ring.
#[derive(Debug, Clone, Serialize)]
pub struct IoUring {
    /// Whether it could be started.
    pub available: bool,
    /// Why not.
    pub problem: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The setting `kernel.io_uring_disabled`: 0 allowed, 1 for a group only, 2 forbidden.
    pub disabled: Option<u32>,
    /// Operations that walring needs and the kernel lacks.
    pub missing_operations: Option<Vec<&'static str>>,
}

/// Whether the buffer slots can be registered.
#[derive(Debug, Clone, Serialize)]
pub struct LockedMemory {
    /// RLIMIT_MEMLOCK in bytes; null: unlimited.
    pub limit_bytes: Option<u64>,
    /// Bytes that the slots take.
    pub needed_bytes: u64,
    /// Whether they could be registered; null where there is no ring to try it on.
    pub fits: Option<bool>,
}

/// Whether and how files can be written past the page cache.
#[derive(Debug, Clone, Serialize)]
pub struct DirectIo {
    /// Whether they can.
    pub supported: bool,
    /// The least alignment of memory in bytes.
    pub memory_alignment: Option<u32>,
    /// The least alignment of offsets and lengths in bytes.
    pub offset_alignment: Option<u32>,
    /// The unit of walring's writes in bytes.
    pub block: u32,
}

/// The unit of buffered writes: pages.
const PAGE: u32 = 4096;

impl Environment {
    /// Looks around. `refusal`: why the ring cannot be started, if it cannot.
    pub fn of(directory: &Directory, refusal: Option<&Error>) -> Result<Environment> {
        let direct = directory.direct_io()?;
        let block = direct.map_or(PAGE, |direct| direct.block());
        let mount = mount_of(directory);
        let mount = mount.as_ref();
        Ok(Environment {
            kernel: setup::kernel_release(),
            io_uring: IoUring {
                available: refusal.is_none(),
                problem: refusal.map(ToString::to_string),
                hint: refusal.and_then(Error::hint).map(str::to_owned),
                disabled: fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
                    .ok()
                    .and_then(|text| text.trim().parse().ok()),
                missing_operations: features::missing_operations().ok(),
            },
            locked_memory: LockedMemory {
                limit_bytes: getrlimit(Resource::Memlock).current,
                needed_bytes: setup::locked_bytes(block as usize) as u64,
                fits: None,
            },
            direct_io: DirectIo {
                supported: direct.is_some(),
                memory_alignment: direct.and_then(|direct| direct.memory),
                offset_alignment: direct.and_then(|direct| direct.offset),
                block,
            },
            file_system: FileSystem {
                free_bytes: free_bytes(directory)?,
                ..FileSystem::of(mount)
            },
            device: Device::of(mount),
        })
    }
}

fn mount_of(directory: &Directory) -> Option<Mount> {
    let statx = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok();
    let tells = |mask: u32| StatxFlags::from_bits_retain(mask).contains(StatxFlags::MNT_ID);
    let id = statx
        .filter(|statx| tells(statx.stx_mask))
        .map(|statx| statx.stx_mnt_id);
    let path = fs::canonicalize(directory.path()).ok();
    Mount::find(id, path.as_deref().unwrap_or(Path::new("/")))
}

fn free_bytes(directory: &Directory) -> Result<Option<u64>> {
    let stat = rustix::fs::fstatvfs(directory).map_err(|error| {
        let (path, reason) = (directory.path().display(), system_text(&error.into()));
        Error::disk(format!(
            "could not ask for the free space of directory \"{path}\": {reason}"
        ))
    })?;
    Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
}
