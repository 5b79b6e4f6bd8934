//! The process that serves a disk: makes it, answers its owner, takes it away. See [the disk](super).

use std::io::{BufRead, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use fuser::BackgroundSession;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::image::{Image, Latencies};
use super::leftovers::{self, IMAGE, Locked, MOUNTED, PREFIX};
use super::log::Log;
use super::programs::{find, loop_devices, run};
use super::{Ask, Counters, Error, Faults, Filesystem, Reply};

/// How long a mount that is in use is waited for before it is detached.
const BUSY: Duration = Duration::from_secs(5);

/// What the server is asked to make.
#[derive(Debug, Clone)]
pub struct Order {
    pub size_mib: u64,
    pub filesystem: Filesystem,
    pub latencies: Latencies,
    /// Where to record what the disk is asked for.
    pub record: Option<PathBuf>,
}

enum Event {
    Request(String),
    /// The owner has ended or closed the disk, or a signal came.
    End,
}

/// Serves a disk until the standard input ends or a signal comes; answers on the standard output.
pub fn serve(order: &Order) {
    let (events, received) = channel();
    if let Err(error) = end_on_signals(events.clone()) {
        return reply(&Reply::NoDisk(Error::Failed(format!(
            "could not handle signals: {error}"
        ))));
    }
    std::thread::spawn(move || read_requests(&events));
    let mut disk = Disk::default();
    let before = match disk.make(order) {
        Ok(ready) => {
            let before = disk.counters();
            reply(&ready);
            before
        }
        Err(error) => {
            disk.take_away();
            return reply(&Reply::NoDisk(error));
        }
    };
    while let Ok(Event::Request(request)) = received.recv() {
        reply(&match serde_json::from_str(&request) {
            Ok(Ask::Counters) => Reply::Counters(disk.counters().since(before)),
            Ok(Ask::Faults(faults)) => {
                disk.set_faults(faults);
                Reply::Done
            }
            Err(error) => Reply::NoDisk(Error::Failed(format!("unknown request {request}: {error}"))),
        });
    }
    let problems = disk.take_away();
    reply(&Reply::Closed { problems });
}

fn end_on_signals(events: Sender<Event>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = events.send(Event::End);
        }
    });
    Ok(())
}

fn read_requests(events: &Sender<Event>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let _ = events.send(Event::Request(line));
    }
    let _ = events.send(Event::End);
}

fn reply(reply: &Reply) {
    if let Ok(line) = serde_json::to_string(reply) {
        // An owner that has ended does not read it.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// What there is of a disk: each field is set once its part is there, and the parts are taken away in the
/// opposite order.
#[derive(Default)]
struct Disk {
    image: Option<Arc<Image>>,
    lock: Option<Locked>,
    directory: Option<PathBuf>,
    session: Option<BackgroundSession>,
    device: Option<PathBuf>,
    mounted: Option<PathBuf>,
}

impl Disk {
    fn counters(&self) -> Counters {
        self.image
            .as_ref()
            .map(|image| image.counters())
            .unwrap_or_default()
    }

    fn set_faults(&self, faults: Faults) {
        if let Some(image) = &self.image {
            image.set_faults(faults);
        }
    }

    fn make(&mut self, order: &Order) -> Result<Reply, Error> {
        available(order.filesystem)?;
        let failed = |what: &str, error: std::io::Error| Error::Failed(format!("{what}: {error}"));
        let log = order.record.as_deref().map(Log::create).transpose();
        let log = log.map_err(|error| failed("could not begin the recording", error))?;
        let image = Image::new(order.size_mib << 20, log)
            .map(Arc::new)
            .map_err(|error| failed("could not make its content in memory", error))?;
        self.image = Some(image.clone());

        let directory = self.make_directory(&std::env::temp_dir())?;
        let (image_directory, mounted) = (directory.join(IMAGE), directory.join(MOUNTED));
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700);
        private
            .create(&image_directory)
            .map_err(|error| failed("could not make a mount point", error))?;
        std::fs::create_dir(&mounted).map_err(|error| failed("could not make a mount point", error))?;

        // The name of the file is the name of the disk, for the kernel may forget the directory.
        let name = directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let session = super::fuse::mount(image.clone(), &name, &image_directory).map_err(|error| {
            Error::Unavailable(format!("a FUSE file system could not be mounted: {error}"))
        })?;
        self.session = Some(session);

        let file = image_directory.join(&name);
        let device = run("losetup", &[&"--find", &"--show", &"--direct-io=on", &file])
            .map_err(|why| Error::Unavailable(format!("a loop device could not be set up: {why}")))?;
        let device = PathBuf::from(device);
        self.device = Some(device.clone());

        make_filesystem(order.filesystem, &device)?;
        run(
            "mount",
            &[
                &"-t",
                &order.filesystem.key(),
                &"-o",
                &"nodev,nosuid",
                &device,
                &mounted,
            ],
        )
        .map_err(|why| match why.contains("unknown filesystem type") {
            true => Error::Unavailable(format!("the kernel has no {}: {why}", order.filesystem.key())),
            false => Error::Failed(format!("the new file system could not be mounted: {why}")),
        })?;
        self.mounted = Some(mounted.clone());
        // What mounting left to be written is not the owner's.
        run("sync", &[&"--file-system", &mounted]).map_err(Error::Failed)?;
        image.set_latencies(order.latencies);
        Ok(Reply::Ready {
            path: mounted,
            device,
        })
    }

    /// A new directory for this disk, after those of dead ones are gone.
    fn make_directory(&mut self, base: &Path) -> Result<PathBuf, Error> {
        let failed = |error: std::io::Error| {
            Error::Failed(format!(
                "could not make a directory in {}: {error}",
                base.display()
            ))
        };
        let _one_at_a_time = Locked::soon(base).map_err(failed)?;
        leftovers::take_away(base);
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(base)
            .map_err(failed)?
            .keep();
        self.directory = Some(directory.clone());
        self.lock = Locked::now(&directory).map_err(failed)?;
        // A receiver may run as another user.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(directory)
    }

    /// Takes away what there is, and gives what stayed, one sentence each.
    fn take_away(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(image) = &self.image {
            image.set_latencies(Latencies::default());
            image.set_faults(Faults::default());
        }
        if let Some(mounted) = self.mounted.take()
            && let Err(why) = unmount(&mounted)
        {
            problems.push(format!(
                "{} was still in use, it goes when it is not: {why}",
                mounted.display()
            ));
        }
        if let Some(device) = self.device.take()
            && let Err(why) = detach(&device)
        {
            problems.push(why);
        }
        if let Some(session) = self.session.take()
            && let Some(directory) = &self.directory
        {
            // By the program, which tries again: the loop driver lets go of its file a moment later.
            match unmount(&directory.join(IMAGE)) {
                Ok(()) => drop(session.join()),
                // Not joined, for it goes on as long as the file is in use, at the longest until this process ends.
                Err(why) => problems.push(format!("the disk's image was still in use: {why}")),
            }
        }
        if let Some(directory) = self.directory.take() {
            for directory in [directory.join(MOUNTED), directory.join(IMAGE), directory] {
                match std::fs::remove_dir(&directory) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        problems.push(format!("could not remove {}: {error}", directory.display()));
                    }
                    _ => {}
                }
            }
        }
        self.lock = None;
        problems
    }
}

/// Whether this machine and this user can have a disk.
fn available(filesystem: Filesystem) -> Result<(), Error> {
    let unavailable = |why: String| Err(Error::Unavailable(why));
    if !rustix::process::geteuid().is_root() {
        return unavailable("only root can mount it; run as root".into());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if let Err(error) = std::fs::File::options().read(true).write(true).open(device) {
            let module = if device == "/dev/fuse" { "fuse" } else { "loop" };
            return unavailable(format!(
                "{device} cannot be opened ({error}); load the module {module}, or give the container the device"
            ));
        }
    }
    for (program, package) in [
        ("losetup", "mount or util-linux"),
        ("mount", "mount or util-linux"),
        ("umount", "mount or util-linux"),
    ] {
        if find(program).is_none() {
            return unavailable(format!("{program} is missing; install the package {package}"));
        }
    }
    let (mkfs, package) = match filesystem {
        Filesystem::Ext4 => ("mkfs.ext4", "e2fsprogs"),
        Filesystem::Xfs => ("mkfs.xfs", "xfsprogs"),
    };
    match find(mkfs) {
        Some(_) => Ok(()),
        None => unavailable(format!("{mkfs} is missing; install the package {package}")),
    }
}

fn make_filesystem(filesystem: Filesystem, device: &Path) -> Result<(), Error> {
    let made = match filesystem {
        // Nothing is left to be initialized later, so that the kernel writes nothing of its own. The block size
        // is that of any but very small disks.
        Filesystem::Ext4 => {
            let initialized = "lazy_itable_init=0,lazy_journal_init=0";
            run(
                "mkfs.ext4",
                &[&"-q", &"-F", &"-b", &"4096", &"-E", &initialized, &device],
            )
        }
        Filesystem::Xfs => run("mkfs.xfs", &[&"-q", &"-f", &device]),
    };
    made.map(drop)
        .map_err(|why| Error::Failed(format!("the file system could not be made: {why}")))
}

/// Unmounts; what stays in use is detached, and goes when it is not used any more.
fn unmount(mounted: &Path) -> Result<(), String> {
    let until = Instant::now() + BUSY;
    loop {
        match run("umount", &[&mounted]) {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(100)),
            Err(why) => {
                run("umount", &[&"--lazy", &mounted])?;
                return Err(why);
            }
        }
    }
}

/// Detaches a loop device. One in use is detached by the kernel once it is not.
fn detach(device: &Path) -> Result<(), String> {
    let _ = run("losetup", &[&"--detach", &device]);
    let until = Instant::now() + BUSY;
    loop {
        let attached = loop_devices()
            .unwrap_or_default()
            .iter()
            .any(|(other, _)| other == device);
        if !attached {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(format!(
                "{} was still in use, it goes when it is not",
                device.display()
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
