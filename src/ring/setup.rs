//! Starting the ring, or saying in one line why it cannot be started and what to do.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};
use tokio_uring::{Runtime, builder, uring_builder};

use super::buffer::Slots;
use crate::error::{Error, Result, system_text};

/// Operations that may be in flight at once, with room to spare: a swallowed submission would hang.
const ENTRIES: u32 = 64;

/// Number of slots, and bytes of WAL in each: six of 1 MiB are enough for full speed, and stay below
/// the 8 MiB that an unprivileged process may lock.
pub const SLOTS: usize = 6;

/// Bytes of WAL in a slot.
pub const WINDOW: usize = 1 << 20;

/// The unit of writes on most disks, in bytes.
const USUAL_BLOCK: usize = 4096;

/// The oldest Linux whose io_uring can withdraw a read of a socket by its descriptor.
const OLDEST_LINUX: (u32, u32) = (5, 19);

/// From this Linux on, a read that waits for all bytes and is withdrawn tells how many it has read.
const TELLS_PARTIAL_READS: (u32, u32) = (6, 1);

/// Whether a read of the socket may wait until all bytes are there.
pub fn may_wait_for_all() -> bool {
    kernel_version(&kernel_release()).is_some_and(|version| version >= TELLS_PARTIAL_READS)
}

/// The kernel's release, such as `6.1.0-18-amd64`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Starts the runtime and its ring.
pub fn start() -> Result<Runtime> {
    if let Some(refusal) = too_old(&kernel_release()) {
        return Err(refusal);
    }
    let mut fast = uring_builder();
    fast.setup_coop_taskrun().setup_single_issuer();
    let attempt = Runtime::new(builder().entries(ENTRIES).uring_builder(&fast));
    let attempt = match attempt {
        // A kernel before 6.0 does not know the second of the two; they only save work.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Runtime::new(builder().entries(ENTRIES).uring_builder(&uring_builder()))
        }
        other => other,
    };
    attempt.map_err(|error| refused(&error))
}

/// Why a kernel of this release is not enough, unless it is.
fn too_old(release: &str) -> Option<Error> {
    let (major, minor) = OLDEST_LINUX;
    kernel_version(release).filter(|&version| version < OLDEST_LINUX)?;
    let message = format!("io_uring of Linux {release} is too old: walring needs {major}.{minor}");
    Some(Error::unsupported(message).with_hint("Install a newer kernel, or use pg_receivewal."))
}

/// Bytes of memory that the slots lock; `block` is the disk's.
pub fn locked_bytes(block: usize) -> usize {
    SLOTS * (WINDOW + block) + Slots::ZEROS
}

/// Allocates and registers the slots on the ring of this thread; `block` is the disk's.
pub fn register_slots(block: usize) -> Result<Slots> {
    Slots::register(SLOTS, WINDOW + block).map_err(|error| {
        let message = format!(
            "could not register buffers with io_uring: {}",
            system_text(&error)
        );
        Error::unsupported(message).with_hint(memory_hint(block))
    })
}

/// What to say where locked memory is refused; `block` is the disk's.
fn memory_hint(block: usize) -> String {
    let limit = getrlimit(Resource::Memlock).current;
    let limit = limit.map_or("unlimited".into(), |bytes| format!("{bytes} bytes"));
    let needed = locked_bytes(block).div_ceil(1 << 20);
    format!(
        "The limit of locked memory (ulimit -l, systemd's LimitMEMLOCK) is {limit}; walring needs {needed} MiB."
    )
}

/// Why the kernel does not give us a ring.
fn refused(error: &io::Error) -> Error {
    let message = format!("io_uring is not available: {}", system_text(error));
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let hint = match (error.raw_os_error(), setting.trim()) {
        (Some(libc::EPERM), "1") => {
            "kernel.io_uring_disabled is 1: add the user to the group in kernel.io_uring_group, \
             or set it to 0 with sysctl."
        }
        (Some(libc::EPERM), "2") => "kernel.io_uring_disabled is 2: set it to 0 with sysctl.",
        (Some(libc::EPERM | libc::EACCES), _) => {
            "A seccomp profile forbids io_uring_setup, as those of containers do by default: allow \
             io_uring_setup, io_uring_enter and io_uring_register."
        }
        (Some(libc::ENOSYS), _) => {
            "The kernel is built without io_uring, or a seccomp profile hides it: allow io_uring_setup, \
             io_uring_enter and io_uring_register."
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            "Raise the limit of open files: ulimit -n, systemd's LimitNOFILE, sysctl fs.file-max."
        }
        // Some kernels count the ring itself.
        (Some(libc::ENOMEM), _) => &memory_hint(USUAL_BLOCK),
        _ => "See io_uring_setup(2) for the meaning of this error.",
    };
    Error::unsupported(message).with_hint(hint)
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_as_far_as_it_is_a_version() {
        assert_eq!(kernel_version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("5.15.167.4-microsoft-standard"), Some((5, 15)));
        assert_eq!(kernel_version("unknown"), None);
        assert!(kernel_version("5.4.0").unwrap() < OLDEST_LINUX);
    }

    #[test]
    fn an_old_kernel_is_refused_by_its_release() {
        let refusal = too_old("5.10.0-28-amd64").unwrap();
        assert_eq!(
            refusal.to_string(),
            "io_uring of Linux 5.10.0-28-amd64 is too old: walring needs 5.19"
        );
        assert!(refusal.hint().unwrap().contains("pg_receivewal"));
        assert!(too_old("5.19.0").is_none() && too_old("of my own").is_none());
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let cases = [
            (libc::ENOSYS, "seccomp"),
            (libc::EMFILE, "LimitNOFILE"),
            (libc::ENOMEM, "LimitMEMLOCK"),
        ];
        for (errno, advice) in cases {
            let error = refused(&io::Error::from_raw_os_error(errno));
            assert!(error.to_string().contains("io_uring is not available"));
            assert!(error.hint().unwrap().contains(advice), "{error:?}");
        }
    }
}
