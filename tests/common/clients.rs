//! Clients that commit one row after the other, and a ledger of the commits that were acknowledged to them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::lsn::Lsn;
use super::server::Server;
use super::session::Session;

/// What was acknowledged to the clients.
#[derive(Default)]
pub struct Ledger {
    /// Client and number of each row whose commit returned.
    pub rows: HashSet<(usize, u32)>,
    /// The commits that returned lie behind this.
    pub position: Option<Lsn>,
}

/// Sessions that insert one row after the other; they end with this.
pub struct Clients {
    ledger: Arc<Mutex<Ledger>>,
    are_done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Makes the table they write to; what waits for a receiver must not wait yet.
    pub fn create_table(server: &Server) {
        server
            .sql("set synchronous_commit = local; create table ledger (client int, number int, filler text)");
    }

    /// Starts so many, each with sessions of its own.
    pub fn start(count: usize, open: impl Fn() -> Session + Clone + Send + 'static) -> Clients {
        let (ledger, are_done) = (Arc::<Mutex<Ledger>>::default(), Arc::<AtomicBool>::default());
        let threads = (0..count).map(|client| {
            let (open, ledger, are_done) = (open.clone(), Arc::clone(&ledger), Arc::clone(&are_done));
            std::thread::spawn(move || commit(client, &open, &ledger, &are_done))
        });
        let threads = threads.collect();
        Clients {
            ledger,
            are_done,
            threads,
        }
    }

    /// What was acknowledged so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no client has failed")
    }

    /// Lets no client begin another row, and waits for those under way unless they wait for ever.
    pub fn stop(&mut self) {
        self.are_done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    /// Asserts that every row of the ledger is found by query.
    pub fn assert_all_are_in(&self, restored: &Server) {
        let text = restored.sql("select client, number from ledger");
        let row = |line: &str| {
            let (client, number) = line.split_once('|').expect("two columns");
            (client.parse().unwrap(), number.parse().unwrap())
        };
        let found: HashSet<(usize, u32)> = text.lines().map(row).collect();
        let lost: Vec<_> = self.ledger().rows.difference(&found).copied().collect();
        assert_eq!(lost, [], "acknowledged and lost, of {} rows", found.len());
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Inserts rows and notes those whose commit returned; connects again when the server has died.
fn commit(client: usize, open: &impl Fn() -> Session, ledger: &Mutex<Ledger>, are_done: &AtomicBool) {
    let is_done = || are_done.load(Ordering::Relaxed);
    let mut session = None;
    for number in 0.. {
        if is_done() {
            return;
        }
        let insert = format!(
            "insert into ledger values ({client}, {number}, repeat('x', (random() * 3000)::int)) \
             returning pg_current_wal_insert_lsn()"
        );
        let current = session.get_or_insert_with(open);
        let Some(position) = current.ask_unless(&insert, is_done) else {
            session = None;
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let mut ledger = ledger.lock().expect("no other client has failed");
        ledger.rows.insert((client, number));
        ledger.position = ledger.position.max(position.parse().ok());
    }
}
