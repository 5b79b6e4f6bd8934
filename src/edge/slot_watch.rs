//! Looking after the replication slot, over an ordinary connection of its own.
//!
//! It asks the server every few seconds, from the observers' thread, and tells before the slot is given up: the
//! stream itself may be what stands still. Whatever goes wrong here is said, and asked again; the stream does not
//! notice.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, error, info, warn};

use super::connection::Connection;
use super::conninfo::{Conninfo, Explicit};
use super::connstring::{self, ConnectionString, Pairs};
use super::observation::Observation;
use super::options::{ConnectionOptions, ReceiveOptions};
use super::overlay;
use super::password::{PasswordPrompt, PromptMode};
use super::slot_state::{Danger, SlotState};
use crate::core::telemetry::{Activity, Telemetry};
use crate::error::{Error, Result};

/// How often the server is asked: it is one row, and a server that writes 100 MB/s takes half a gigabyte meanwhile.
const LOOK: Duration = Duration::from_secs(5);

/// An answer takes no time to speak of, so that a server that has not given it by then is not reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one address may take to let us in, unless `connect_timeout` says it: the next one may be the right one.
const PATIENCE_AT_THE_DOOR: Duration = Duration::from_secs(3);

/// How long all of that may take: a name server may be what is silent.
const OPENING: Duration = Duration::from_secs(60);

/// What stands for the stream's own settings.
const SAME: &str = "same";

/// The database that is asked unless another is named.
const DATABASE: &str = "postgres";

/// What to do while it is not too late.
const WAY_OUT: &str = "Find out why the stream does not keep up, or raise max_slot_wal_keep_size on the server (a reload \
    is enough).";

/// What to do when it is.
const WAY_BACK: &str = "Copy the missing segments into the directory, from an archive or another server; drop the slot \
    (--drop-slot) and create it again (--create-slot, or --slot-mode=create).";

/// What one slot is looked after with.
#[derive(Debug)]
pub struct SlotWatch {
    info: Conninfo,
    /// Whether to ask the server that the stream comes from, not one that was named.
    follows_stream: bool,
    slot: String,
    /// What was typed in for the stream, if the same role logs in to the same server here.
    prompt: PasswordPrompt,
    telemetry: Arc<Telemetry>,
}

/// How to connect: `text` says what is different from the stream's own settings, or everything, if it names a host.
pub fn settings(
    text: &ConnectionString,
    options: &ConnectionOptions,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Conninfo> {
    let above = wanted(text)?;
    let mut pairs = Pairs::new();
    if follows_stream(&above) {
        for text in [&options.file, &options.dbname].into_iter().flatten() {
            // One that is wrong is refused for the stream.
            pairs = overlay::laid_over(pairs, &connstring::parse(text.as_str()).unwrap_or_default());
        }
        let given = [
            ("host", &options.host),
            ("port", &options.port),
            ("user", &options.username),
        ];
        let given = given
            .into_iter()
            .filter_map(|(keyword, value)| Some((keyword.to_owned(), value.clone()?)));
        pairs = overlay::laid_over(pairs, &given.collect::<Pairs>());
    }
    pairs.push(("dbname".to_owned(), DATABASE.to_owned()));
    let explicit = Explicit {
        dbname: Some(overlay::written(&overlay::laid_over(pairs, &above))),
        program_name: format!("{} slot watch", options.program_name),
        ..Explicit::default()
    };
    let info = Conninfo::resolve(&explicit, env).map_err(|error| error.in_context("slot watch"))?;
    Ok(info.without_replication(PATIENCE_AT_THE_DOOR))
}

fn wanted(text: &ConnectionString) -> Result<Pairs> {
    match text.as_str() {
        SAME => Ok(Pairs::new()),
        text => connstring::parse(text).map_err(|error| error.in_context("slot watch")),
    }
}

fn follows_stream(above: &Pairs) -> bool {
    !names(above, &["host", "hostaddr", "service"])
}

/// Whether a password that was typed in for the stream is meant for this login, too.
fn shares_password(above: &Pairs) -> bool {
    follows_stream(above) && !names(above, &["user", "password", "passfile"])
}

fn names(pairs: &Pairs, keywords: &[&str]) -> bool {
    pairs
        .iter()
        .any(|(keyword, value)| keywords.contains(&keyword.as_str()) && !value.is_empty())
}

impl SlotWatch {
    /// As the options want it; `None` if they do not. `prompt` is the stream's.
    pub fn wanted(
        options: &ReceiveOptions,
        telemetry: &Arc<Telemetry>,
        prompt: &PasswordPrompt,
    ) -> Result<Option<SlotWatch>> {
        let (Some(text), Some(slot)) = (&options.slot_watch, &options.slot) else {
            return Ok(None);
        };
        let above = wanted(text)?;
        Ok(Some(SlotWatch {
            info: settings(text, &options.connection, &|name| std::env::var(name).ok())?,
            follows_stream: follows_stream(&above),
            slot: slot.clone(),
            prompt: match shares_password(&above) {
                true => prompt.listener(),
                false => PasswordPrompt::new(PromptMode::Never),
            },
            telemetry: Arc::clone(telemetry),
        }))
    }

    /// Looks after the slot, for ever.
    pub async fn watch(&self, observation: &Observation) -> Infallible {
        let mut often = interval(LOOK);
        often.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut line, mut teller) = (None, Teller::default());
        loop {
            often.tick().await;
            if self.follows_stream && self.telemetry.upstream().server_version.is_empty() {
                // The stream has found no server yet.
                continue;
            }
            let looked = self.look(&mut line).await;
            observation.set_slot(looked.as_ref().ok().cloned().flatten());
            teller.tell(
                &self.slot,
                looked,
                self.telemetry.activity() == Activity::Streaming,
            );
        }
    }

    /// Asks once, on the connection there is, or on a new one; where that fails there is none.
    async fn look(&self, line: &mut Option<Line>) -> Result<Option<SlotState>> {
        let upstream = self.telemetry.upstream();
        let place = self.follows_stream.then(|| Place {
            host: upstream.host,
            port: upstream.port,
            address: upstream.address,
            reconnects: self.telemetry.reconnects.value(),
        });
        let mut current = match line.take().filter(|line| line.place == place) {
            Some(line) => line,
            None => {
                let info = match &place {
                    Some(place) => place.only(&self.info),
                    None => self.info.clone(),
                };
                let mut prompt = self.prompt.listener();
                let connection = in_time(OPENING, Connection::open(&info, &mut prompt)).await?;
                Line { place, connection }
            }
        };
        let state = in_time(PATIENCE, SlotState::ask(&mut current.connection, &self.slot)).await?;
        *line = Some(current);
        Ok(state)
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = timeout(limit, work).await;
    done.unwrap_or_else(|_| Err(Error::connection("the server does not answer")))
}

/// An open connection.
struct Line {
    /// Where the stream came from when it was opened.
    place: Option<Place>,
    connection: Connection,
}

/// Where the stream comes from.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    host: String,
    port: u16,
    address: Option<String>,
    /// Behind one address there may be another server after a failover.
    reconnects: u64,
}

impl Place {
    /// The settings of a connection to there.
    fn only(&self, info: &Conninfo) -> Conninfo {
        let address = self.address.as_ref().and_then(|address| address.parse().ok());
        info.clone().only_to(&self.host, self.port, address)
    }
}

/// What was said already.
#[derive(Debug)]
struct Teller {
    danger: Danger,
    /// Nothing can be found out.
    is_blind: bool,
}

impl Default for Teller {
    fn default() -> Teller {
        Teller {
            danger: Danger::None,
            is_blind: false,
        }
    }
}

impl Teller {
    /// Says what is new. While the stream is interrupted it is said there why nothing can be asked.
    fn tell(&mut self, slot: &str, looked: Result<Option<SlotState>>, streams: bool) {
        match looked {
            Ok(Some(state)) => {
                if std::mem::take(&mut self.is_blind) {
                    info!("replication slot \"{slot}\" is looked after again");
                }
                self.tell_danger(slot, &state);
            }
            Ok(None) if streams => self.complain(format!(
                "could not look after replication slot \"{slot}\": it does not exist on the server that is asked"
            )),
            Err(error) if streams => {
                self.complain(format!("could not look after replication slot \"{slot}\": {error}"));
            }
            Ok(None) => {}
            Err(error) => debug!("could not look after replication slot \"{slot}\": {error}"),
        }
    }

    fn complain(&mut self, message: String) {
        if !std::mem::replace(&mut self.is_blind, true) {
            warn!(
                hint = "The stream goes on. See --slot-watch: it needs a line of pg_hba.conf for an ordinary connection.",
                "{message}"
            );
        }
    }

    /// Each danger once, when it gets there, and the end of it.
    fn tell_danger(&mut self, slot: &str, state: &SlotState) {
        let danger = state.danger(self.danger);
        let before = std::mem::replace(&mut self.danger, danger);
        if danger == before {
            return;
        }
        let words = state.words(slot, danger);
        match danger {
            Danger::None => info!("{words}"),
            Danger::Low | Danger::Acute if danger > before => warn!(hint = WAY_OUT, "{words}"),
            Danger::Low | Danger::Acute => debug!("{words}"),
            Danger::Lost => error!(hint = WAY_BACK, "{words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::hosts::Target;

    fn resolved(text: &str, stream: &str) -> Conninfo {
        let options = ConnectionOptions {
            file: None,
            dbname: Some(stream.to_owned().into()),
            host: None,
            port: Some("1".to_owned()),
            username: None,
            password: PromptMode::Always,
            program_name: "walring".to_owned(),
        };
        settings(&text.to_owned().into(), &options, &|_| None).unwrap()
    }

    fn startup(info: &Conninfo, name: &str) -> Option<String> {
        let found = info.startup.iter().find(|(parameter, _)| *parameter == name);
        found.map(|(_, value)| value.clone())
    }

    #[test]
    fn it_connects_as_the_stream_does_but_for_what_is_said_otherwise() {
        let info = resolved("same", "host=a user=u dbname=x");
        assert_eq!((info.hosts[0].name.as_str(), info.hosts[0].port), ("a", 1));
        assert_eq!(info.user, "u");
        assert_eq!(startup(&info, "database").as_deref(), Some("postgres"));
        assert_eq!(startup(&info, "replication"), None);
        assert_eq!(
            startup(&info, "application_name").as_deref(),
            Some("walring slot watch")
        );
        let info = resolved("user=v dbname=y", "host=a user=u");
        assert_eq!((info.hosts[0].name.as_str(), info.user.as_str()), ("a", "v"));
        assert_eq!(startup(&info, "database").as_deref(), Some("y"));
    }

    #[test]
    fn of_several_addresses_it_asks_the_one_that_the_stream_comes_from() {
        let info = resolved("same", "host=pg,pg,other hostaddr=::1,127.1,127.0.0.2");
        let only = |address: &str| {
            let place = Place {
                host: "pg".to_owned(),
                port: 1,
                address: Some(address.to_owned()),
                reconnects: 0,
            };
            place.only(&info).hosts
        };
        for (address, text) in [
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:1", "::1"),
            ("[fe80::1%2]:1", "fe80::1%2"),
        ] {
            let hosts = only(address);
            assert_eq!((hosts.len(), hosts[0].name.as_str()), (1, "pg"));
            assert_eq!(hosts[0].target, Target::Address(text.to_owned()));
        }
        assert_eq!(info.clone().only_to("pg", 2, None).hosts.len(), 3);
    }

    #[test]
    fn no_address_is_waited_for_without_an_end() {
        let info = resolved("same", "host=a connect_timeout=0");
        assert_eq!(
            (info.connect_timeout, info.patience),
            (None, Some(PATIENCE_AT_THE_DOOR))
        );
        let info = resolved("connect_timeout=7", "host=a connect_timeout=0");
        assert_eq!(info.connect_timeout, Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_server_of_the_stream_is_asked_whatever_it_has_become() {
        use crate::edge::target_session::TargetSession::{Any, Standby};
        let info = resolved("same", "host=a,b target_session_attrs=standby");
        let only = |host: &str| info.clone().only_to(host, 1, None).target_session;
        assert_eq!((only("b"), only("c")), (Any, Standby));
    }

    #[test]
    fn who_names_a_host_says_all_of_it() {
        let info = resolved("host=b user=v", "host=a user=u application_name=x");
        assert_eq!((info.hosts[0].name.as_str(), info.hosts[0].port), ("b", 5432));
        assert_eq!(
            startup(&info, "application_name").as_deref(),
            Some("walring slot watch")
        );
        assert!(!follows_stream(&wanted(&"host=b".to_owned().into()).unwrap()));
        assert!(follows_stream(&wanted(&"same".to_owned().into()).unwrap()));
    }
}
