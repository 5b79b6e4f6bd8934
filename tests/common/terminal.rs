//! A terminal: what a program draws on it, and keys to press.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::wait::until;

/// A pseudo terminal, and all that was ever drawn on it.
pub struct Terminal {
    user: OwnedFd,
    device: OwnedFd,
    drawn: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// One of no particular size.
    pub fn open() -> Terminal {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("open a terminal");
        grantpt(&user).expect("grant it");
        unlockpt(&user).expect("unlock it");
        let name = ptsname(&user, Vec::new()).expect("its name");
        let device = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        let drawn = Arc::default();
        collect(user.try_clone().expect("a file"), Arc::clone(&drawn));
        Terminal {
            user,
            device: device.expect("open a terminal's other side"),
            drawn,
        }
    }

    /// The side of the programs.
    pub fn device(&self) -> OwnedFd {
        self.device.try_clone().expect("a file")
    }

    /// All that was drawn so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.drawn.lock().unwrap()).into_owned()
    }

    /// Waits until the text was drawn.
    pub fn wait_for(&self, text: &str) {
        until(&format!("{text:?} is drawn"), || {
            self.text().contains(text).then_some(())
        });
    }

    /// Gives it another size, in characters.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.user, size).expect("set its size");
    }

    /// Presses keys.
    pub fn press(&self, keys: &[u8]) {
        rustix::io::write(&self.user, keys).expect("press keys");
    }

    /// Whether what is typed shows, line by line.
    pub fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.device)
            .expect("how the terminal is set")
            .local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }
}

/// Reads what is drawn, until the terminal is gone.
fn collect(user: OwnedFd, drawn: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = rustix::io::read(&user, &mut piece) {
            drawn.lock().unwrap().extend_from_slice(&piece[..read]);
        }
    });
}
