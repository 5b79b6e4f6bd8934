//! The password and the prompt for it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};

/// A password, never empty. Kept as bytes, for PostgreSQL does not demand any encoding of it. Its clones are one copy in
/// memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<[u8]>);

impl Password {
    /// A password, unless it is empty: to PostgreSQL that is none.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Password> {
        Some(Password(bytes.into().into())).filter(|password| !password.0.is_empty())
    }

    /// The password itself.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Never shows the password.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(_)")
    }
}

/// When to ask for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptMode {
    /// `-w`: never; a server that wants one is an error.
    Never,
    /// Once the server has asked for one and none was given.
    WhenAsked,
    /// `-W`: before the first connection.
    Always,
}

/// The prompt, and the password it got: one answer serves every reconnection, and those who listen.
#[derive(Debug)]
pub struct PasswordPrompt {
    mode: PromptMode,
    answer: Arc<Mutex<Option<Password>>>,
}

impl PasswordPrompt {
    /// A prompt that has not asked yet.
    pub fn new(mode: PromptMode) -> PasswordPrompt {
        PasswordPrompt {
            mode,
            answer: Arc::default(),
        }
    }

    /// Never asks, and knows what this one is answered.
    pub fn listener(&self) -> PasswordPrompt {
        PasswordPrompt {
            mode: PromptMode::Never,
            answer: Arc::clone(&self.answer),
        }
    }

    /// The password that was typed in; it beats every other source.
    pub fn answer(&self) -> Option<Password> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self) -> Result<()> {
        let answer = ask().await?;
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
        Ok(())
    }

    /// To be called before connecting: asks if that was demanded, once.
    ///
    /// Fails if the terminal cannot be read.
    pub async fn before_connecting(&mut self) -> Result<()> {
        if self.mode == PromptMode::Always {
            self.ask().await?;
            self.mode = PromptMode::WhenAsked;
        }
        Ok(())
    }

    /// To be called when the server wants a password and there is none; false if nobody gave one.
    ///
    /// Fails if the terminal cannot be read.
    pub async fn when_demanded(&mut self) -> Result<bool> {
        if self.mode == PromptMode::WhenAsked {
            self.ask().await?;
        }
        Ok(self.answer().is_some())
    }
}

/// Asks on the terminal, or on standard input and standard error if there is none. Dropped, it asks no longer: only a
/// thread still waits for a line, until the program has ended.
async fn ask() -> Result<Option<Password>> {
    let typed = match OpenOptions::new().read(true).write(true).open("/dev/tty") {
        Ok(terminal) => {
            let terminal = Arc::new(terminal);
            ask_on(Arc::clone(&terminal), &*terminal).await
        }
        Err(_) => match io::stdin().as_fd().try_clone_to_owned() {
            Ok(input) => ask_on(Arc::new(input.into()), io::stderr()).await,
            Err(error) => Err(error),
        },
    };
    let typed = typed.map_err(|error| Error::usage(format!("could not read the password: {error}")))?;
    Ok(Password::new(typed))
}

async fn ask_on(input: Arc<File>, mut output: impl Write) -> io::Result<Vec<u8>> {
    let silence = isatty(&*input).then(|| Silence::begin(Arc::clone(&input)));
    let _silence = silence.transpose()?;
    write!(output, "Password: ")?;
    output.flush()?;
    spawn_blocking(move || read_line(&*input)).await?
}

/// Reads byte by byte, so that nothing behind the line is swallowed.
fn read_line(mut input: impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match input.read_exact(&mut byte) {
            Ok(()) if byte[0] == b'\n' => break,
            Ok(()) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// Echo is off while this lives, and back on however the reading ends.
struct Silence {
    terminal: Arc<File>,
    before: Termios,
}

impl Silence {
    fn begin(terminal: Arc<File>) -> io::Result<Silence> {
        let before = tcgetattr(&*terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&*terminal, OptionalActions::Flush, &silent)?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing better can be done with a terminal that has gone away. The newline that was typed did not show.
        let _ = tcsetattr(&*self.terminal, OptionalActions::Flush, &self.before);
        let _ = writeln!(&*self.terminal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_newline_and_nothing_behind_it_is_read() {
        let mut input: &[u8] = b"secret\r\nnext\n";
        assert_eq!(read_line(&mut input).unwrap(), b"secret");
        assert_eq!(read_line(&mut input).unwrap(), b"next");
        assert_eq!(read_line(&mut input).unwrap(), b"");
    }

    #[test]
    fn the_password_is_not_shown() {
        let prompt = PasswordPrompt {
            mode: PromptMode::Never,
            answer: Arc::new(Mutex::new(Password::new("secret"))),
        };
        assert!(!format!("{prompt:?}").contains("secret"));
    }

    #[test]
    fn an_empty_password_is_none() {
        assert_eq!(Password::new(""), None);
    }

    #[test]
    fn nobody_is_asked_who_does_not_want_to_be() {
        let mut prompt = PasswordPrompt::new(PromptMode::Never);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            prompt.before_connecting().await.unwrap();
            assert!(!prompt.when_demanded().await.unwrap());
        });
    }
}
