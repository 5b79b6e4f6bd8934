//! What the user and the system want: keys and signals.

use std::future::pending;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The end.
    Quit,
    /// The screen has another size.
    Resize,
    /// The shell wants the terminal for a while.
    Suspend,
}

/// Signals, and keys once there is a keyboard.
#[derive(Debug)]
pub struct Events {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    resize: Signal,
    suspend: Option<Signal>,
    keys: Option<UnboundedReceiver<u8>>,
}

impl Events {
    /// From now on signals are events. Listen before the terminal is taken, or it may not be given back.
    pub fn listen() -> io::Result<Events> {
        Ok(Events {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            resize: signal(SignalKind::window_change())?,
            suspend: None,
            keys: None,
        })
    }

    /// There is a terminal: the shell's wish for it is an event, and if it `has_keys`, they are.
    pub fn use_terminal(&mut self, has_keys: bool) -> io::Result<()> {
        self.suspend = Some(signal(SignalKind::from_raw(libc::SIGTSTP))?);
        self.keys = has_keys.then(read_keys);
        Ok(())
    }

    /// The next one. Nothing is lost when it is not waited for to the end.
    pub async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.interrupt.recv() => Event::Quit,
            _ = self.terminate.recv() => Event::Quit,
            _ = self.hangup.recv() => Event::Quit,
            _ = self.resize.recv() => Event::Resize,
            () = received(self.suspend.as_mut()) => Event::Suspend,
            () = quit_key(self.keys.as_mut()) => Event::Quit,
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}

/// Waits for `q`, or for the keyboard to be gone.
async fn quit_key(keys: Option<&mut UnboundedReceiver<u8>>) {
    let Some(keys) = keys else { return pending().await };
    while let Some(key) = keys.recv().await {
        if matches!(key, b'q' | b'Q') {
            return;
        }
    }
}

/// Reads standard input on a thread of its own, which ends with the process: a terminal can be waited for without one
/// only by changing it for every process that has it open.
fn read_keys() -> UnboundedReceiver<u8> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        let mut key = [0];
        while let Ok(1..) = rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut key)) {
            if sender.send(key[0]).is_err() {
                return;
            }
        }
    });
    receiver
}
