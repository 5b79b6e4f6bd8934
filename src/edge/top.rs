//! `walring top`: what a running receiver does, seen from another process.
//!
//! [`endpoint`] asks the receiver, [`history`] keeps the last minute, [`mod@frame`] says what is shown, a pure function;
//! [`terminal`] and [`events`] are all that touches the terminal. A receiver that cannot be reached is asked again at
//! the next interval, with its last state in view; only with `--once` it is an error.

pub mod endpoint;
pub mod events;
pub mod frame;
mod histogram;
pub mod history;
pub mod line;
pub mod terminal;

use std::io;
use std::pin::pin;

use rustix::process::{Signal, getpid, kill_process};
use tokio::time::{MissedTickBehavior, interval};

use self::endpoint::fetch;
use self::events::{Event, Events};
use self::frame::{View, frame};
use self::terminal::Terminal;
use super::cli::TopOptions;
use super::status::Status;
use crate::error::{Error, Result, system_text};

/// Shows the receiver until the user wants the end, or once.
pub async fn run(options: &TopOptions) -> Result<()> {
    let shown = match options.once {
        true => {
            let mut view = View::default();
            view.history.push(fetch(&options.endpoint).await?);
            Screen::Stream { printed: 0 }.draw(&view)
        }
        false => show(options).await,
    };
    match shown {
        // Nobody reads on: the usual end of a pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let reason = system_text(&error);
            Err(Error::unsupported(format!(
                "could not use the terminal: {reason}"
            )))
        }
        Ok(()) => Ok(()),
    }
}

/// Asks and draws at every interval, until the user wants the end.
async fn show(options: &TopOptions) -> io::Result<()> {
    let mut events = Events::listen()?;
    let mut screen = Screen::open(&mut events)?;
    let mut clock = interval(options.interval);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view = View::default();
    loop {
        let mut answer = pin!(async {
            clock.tick().await;
            fetch(&options.endpoint).await
        });
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                event = events.next() => match event {
                    Event::Quit => return Ok(()),
                    Event::Resize => screen.redraw(&view)?,
                    Event::Suspend => {
                        screen.suspend()?;
                        screen.redraw(&view)?;
                    }
                },
            }
        };
        view.take(answer);
        screen.draw(&view)?;
    }
}

impl View {
    /// What the receiver answered, or why it did not.
    fn take(&mut self, answer: Result<Status>) {
        match answer {
            Ok(status) => {
                self.history.push(status);
                self.problem = None;
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }
}

/// Where frames go.
#[derive(Debug)]
enum Screen {
    /// A terminal, redrawn in place.
    Terminal(Terminal),
    /// Anything else: one frame after the other as plain text, an empty line between them.
    Stream { printed: u64 },
}

impl Screen {
    fn open(events: &mut Events) -> io::Result<Screen> {
        let Some(terminal) = Terminal::open()? else {
            return Ok(Screen::Stream { printed: 0 });
        };
        events.use_terminal(terminal.has_keys())?;
        Ok(Screen::Terminal(terminal))
    }

    fn draw(&mut self, view: &View) -> io::Result<()> {
        match self {
            Screen::Terminal(terminal) => terminal.draw(&frame(view, terminal.size())),
            Screen::Stream { printed } => {
                *printed += 1;
                terminal::print(&frame(view, terminal::USUAL), *printed > 1)
            }
        }
    }

    /// The same frame again, where that makes sense.
    fn redraw(&mut self, view: &View) -> io::Result<()> {
        match self {
            Screen::Terminal(_) => self.draw(view),
            Screen::Stream { .. } => Ok(()),
        }
    }

    /// Gives the terminal to the shell until this process is continued.
    fn suspend(&mut self) -> io::Result<()> {
        let Screen::Terminal(terminal) = self else {
            return Ok(());
        };
        terminal.leave()?;
        kill_process(getpid(), Signal::STOP)?;
        terminal.enter()
    }
}
