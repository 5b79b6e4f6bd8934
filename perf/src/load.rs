//! A load: clients that commit, and how long each commit took as its client saw it.
//!
//! One thread, one current-thread runtime: the generator shares the machine's few processors with the
//! server and the receiver, so it must be cheap and never run beside itself.
//!
//! - **Closed loop**: each client begins its next commit as soon as the last is done, without a pause.
//!   A stall is seen by one commit of each client only; see [`Timed::corrected`].
//! - **Open loop**: commits are due at moments that nothing can delay, and are timed from there, so a
//!   stall is seen by every commit that should have begun meanwhile. The moments are those of a Poisson
//!   process; the seed is fixed, so that every run with the same rate has the same ones. The next client
//!   that is free takes the next commit that is due. How late the clock wakes it counts too.
//!
//! A commit that does not end fails the run, after [`LIMIT`]; what waits then is cancelled.

pub mod cli;
mod timed;
mod timer;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, NoTls, Statement};
use walring::error::{Error, Result};

pub use timed::{Sample, Timed};
use timer::Timer;

/// How long a commit may take, and in the open loop how late it may begin, before the run fails.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long it may take to cancel what hangs.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// The open loop's moments are the same in every run.
const SEED: u64 = 0x77_61_6c_72_69_6e_67;

/// When commits begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each client's next one as soon as its last is done.
    Closed,
    /// At moments of their own, of a Poisson process.
    Open {
        /// So many on average, all clients together.
        per_second: f64,
    },
}

/// Clients that are connected, and what they run.
pub struct Load {
    clients: Vec<Client>,
    limit: Duration,
    /// Last, for what is above lives on it.
    runtime: Runtime,
}

struct Client {
    connection: tokio_postgres::Client,
    statement: Statement,
    /// The statement's only parameter, if it has one.
    number: Option<Box<dyn ToSql + Sync + Send>>,
    /// When the commit that is under way began.
    begun: Cell<Option<Instant>>,
}

impl Load {
    /// Connects `clients` clients over TCP or the Unix socket, as `config` says: keywords and values, or
    /// a URI, as tokio-postgres reads them; neither environment nor password file is looked at.
    ///
    /// Each will run `statement` as one transaction. It has no parameter, or `$1` is the client's number
    /// from 0, `int4` or `int8`.
    pub fn connect(config: &str, clients: u32, statement: &str) -> Result<Load> {
        let mut config: Config = config
            .parse()
            .map_err(|error| Error::usage(format!("invalid connection string: {}", reason(&error))))?;
        if config.get_application_name().is_none() {
            config.application_name("walring-load");
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| Error::unsupported(format!("could not set up the load: {error}")))?;
        let clients =
            (0..clients).map(|number| runtime.block_on(Client::connect(&config, number, statement)));
        Ok(Load {
            clients: clients.collect::<Result<_>>()?,
            limit: LIMIT,
            runtime,
        })
    }

    /// The same load, which gives up after `limit` instead of [`LIMIT`].
    pub fn giving_up_after(self, limit: Duration) -> Load {
        Load { limit, ..self }
    }

    /// Commits for so long and returns what was timed. The connections stay, so a warm-up is a run whose
    /// result is dropped. Commits that began, or in the open loop were due, before the end are waited for.
    ///
    /// Fails if a commit fails, hangs, or cannot begin for longer than the limit; the load is over then.
    pub fn run(&mut self, pace: Pace, duration: Duration) -> Result<Timed> {
        if let Pace::Open { per_second } = pace
            && !(per_second.is_finite() && per_second > 0.0)
        {
            return Err(Error::usage(format!(
                "a rate of {per_second} commits a second cannot be kept"
            )));
        }
        if self.clients.is_empty() {
            return Err(Error::usage(
                "the load has no clients, or an earlier run failed: connect again",
            ));
        }
        let run = Run::new(pace, duration, self.limit);
        let outcome = self.runtime.block_on(run.all(&self.clients));
        if let Err(error) = outcome {
            self.cancel();
            return Err(error);
        }
        Ok(Timed::new(run.samples.into_inner(), run.start.elapsed(), pace))
    }

    /// Withdraws what is under way and leaves the server.
    fn cancel(&mut self) {
        let clients = std::mem::take(&mut self.clients);
        let waiting = clients.iter().filter(|client| client.begun.get().is_some());
        let mut cancels: FuturesUnordered<_> = waiting
            .map(|client| {
                let token = client.connection.cancel_token();
                async move { token.cancel_query(NoTls).await }
            })
            .collect();
        // A server that is gone cannot be told.
        let _ = self.runtime.block_on(async {
            tokio::time::timeout(CANCEL_LIMIT, async { while cancels.next().await.is_some() {} }).await
        });
    }
}

impl Client {
    async fn connect(config: &Config, number: u32, statement: &str) -> Result<Client> {
        let connected = config.connect(NoTls).await;
        let (client, connection) = connected.map_err(|error| {
            Error::connection(format!(
                "could not connect client {number} of the load: {}",
                reason(&error)
            ))
        })?;
        // What ends the connection is seen by the client's next commit.
        tokio::spawn(async { drop(connection.await) });
        let prepared = client.prepare(statement).await.map_err(|error| {
            Error::usage(format!(
                "the load's statement \"{statement}\" cannot be prepared: {}",
                reason(&error)
            ))
        })?;
        let number: Option<Box<dyn ToSql + Sync + Send>> = match prepared.params() {
            [] => None,
            [kind] if *kind == Type::INT4 => Some(Box::new(number.cast_signed())),
            [kind] if *kind == Type::INT8 => Some(Box::new(i64::from(number))),
            _ => {
                return Err(Error::usage(format!(
                    "the load's statement \"{statement}\" may have no parameter but the client's number, an integer"
                )));
            }
        };
        Ok(Client {
            connection: client,
            statement: prepared,
            number,
            begun: Cell::new(None),
        })
    }

    /// One commit, from now.
    async fn commit(&self) -> Result<()> {
        self.begun.set(Some(Instant::now()));
        let done = match &self.number {
            None => self.connection.execute(&self.statement, &[]).await,
            Some(number) => self.connection.execute(&self.statement, &[number.as_ref()]).await,
        };
        done.map_err(|error| Error::connection(format!("a commit of the load failed: {}", reason(&error))))?;
        self.begun.set(None);
        Ok(())
    }
}

/// One run, shared by its clients.
struct Run {
    start: Instant,
    duration: Duration,
    limit: Duration,
    arrivals: Option<RefCell<Arrivals>>,
    samples: RefCell<Vec<Sample>>,
}

impl Run {
    fn new(pace: Pace, duration: Duration, limit: Duration) -> Run {
        let arrivals = match pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(RefCell::new(Arrivals::new(per_second))),
        };
        Run {
            start: Instant::now(),
            duration,
            limit,
            arrivals,
            samples: RefCell::new(Vec::with_capacity(1 << 16)),
        }
    }

    /// Everything that all clients do; ends with the last commit, or with the first failure.
    async fn all(&self, clients: &[Client]) -> Result<()> {
        let mut working = FuturesUnordered::new();
        for client in clients {
            working.push(self.one(client));
        }
        let work = async {
            while let Some(done) = working.next().await {
                done?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            done = work => done,
            error = self.watch(clients) => Err(error),
        }
    }

    async fn one(&self, client: &Client) -> Result<()> {
        match &self.arrivals {
            None => self.closed(client).await,
            Some(arrivals) => self.open(client, arrivals).await,
        }
    }

    async fn closed(&self, client: &Client) -> Result<()> {
        let mut at = self.start.elapsed();
        while at < self.duration {
            client.commit().await?;
            let end = self.start.elapsed();
            self.take(at, end);
            at = end;
        }
        Ok(())
    }

    async fn open(&self, client: &Client, arrivals: &RefCell<Arrivals>) -> Result<()> {
        let timer = Timer::new()?;
        loop {
            let due = arrivals.borrow_mut().next();
            if due >= self.duration {
                return Ok(());
            }
            let now = self.start.elapsed();
            if now > due + self.limit {
                return Err(Error::connection(format!(
                    "a commit due {:.1} s ago cannot begin: the server does not keep up with the rate; lower it, or use more clients",
                    (now - due).as_secs_f64()
                )));
            }
            timer.sleep(due.saturating_sub(now)).await?;
            client.commit().await?;
            self.take(due, self.start.elapsed());
        }
    }

    fn take(&self, at: Duration, end: Duration) {
        let took = end.saturating_sub(at);
        self.samples.borrow_mut().push(Sample { at, took });
    }

    /// Ends when a commit has been under way for too long.
    async fn watch(&self, clients: &[Client]) -> Error {
        loop {
            tokio::time::sleep((self.limit / 4).min(Duration::from_secs(1))).await;
            let hangs = |client: &Client| {
                client
                    .begun
                    .get()
                    .is_some_and(|begun| begun.elapsed() > self.limit)
            };
            let hanging = clients.iter().filter(|client| hangs(client)).count();
            if hanging > 0 {
                return Error::connection(format!(
                    "commits of {hanging} of {} clients did not end within {} s: look whether the receiver still runs and the server waits for it",
                    clients.len(),
                    self.limit.as_secs_f64()
                ));
            }
        }
    }
}

/// When commits of the open loop are due: a Poisson process.
struct Arrivals {
    random: fastrand::Rng,
    per_second: f64,
    last_s: f64,
}

impl Arrivals {
    fn new(per_second: f64) -> Arrivals {
        Arrivals {
            random: fastrand::Rng::with_seed(SEED),
            per_second,
            last_s: 0.0,
        }
    }

    /// The next one, from the run's start.
    fn next(&mut self) -> Duration {
        // 1 - [0, 1) is never zero.
        self.last_s -= (1.0 - self.random.f64()).ln() / self.per_second;
        Duration::try_from_secs_f64(self.last_s).unwrap_or(Duration::MAX)
    }
}

/// What went wrong, in the server's words if they are its.
fn reason(error: &tokio_postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return format!("{}: {}", refusal.severity(), refusal.message());
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_may_run_in_another_thread() {
        fn check<T: Send>() {}
        check::<Load>();
    }

    #[test]
    fn arrivals_come_at_the_rate_and_are_the_same_each_time() {
        let take = |count| {
            let mut arrivals = Arrivals::new(500.0);
            (0..count).map(|_| arrivals.next()).collect::<Vec<_>>()
        };
        let moments = take(10_000);
        assert_eq!(moments, take(10_000));
        assert!(moments.is_sorted());
        let last_s = moments[9_999].as_secs_f64();
        assert!((19.0..21.0).contains(&last_s), "{last_s}");
    }

    #[test]
    fn a_connection_string_that_is_wrong_is_said_to_be() {
        let error = Load::connect("host=/nowhere no_such_key=1", 1, "select 1").err();
        let error = error.expect("must fail").to_string();
        assert!(error.starts_with("invalid connection string: "), "{error}");
    }
}
