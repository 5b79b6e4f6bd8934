//! The connection is cut; until the next acknowledgement.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Bench, SEGMENT_MIB, elapsed};
use crate::results::{Case, Kind};
use crate::scenario::scene::Scene;
use crate::site::Site;

/// The server's side of the connection is ended, then one row is committed.
pub fn cases(bench: &mut Bench, site: &Site) -> Result<Vec<Case>> {
    let mut runs = Vec::new();
    for visit in bench.plan.visits(Kind::Reconnect, site.is_given()) {
        let tries = bench.plan.tries(&visit);
        runs.push(bench.visit(site, SEGMENT_MIB, &visit, |scene| {
            let times = (0..tries).map(|_| cut_once(scene)).collect::<Result<Vec<_>>>()?;
            Ok(visit.run(elapsed(times)))
        })?);
    }
    let about = "The server ends the connection (pg_terminate_backend) and a row is committed at once; the time \
                 from the cut to the end of that commit.";
    Ok(vec![Case {
        kind: Kind::Reconnect,
        clients: None,
        about: about.to_owned(),
        runs,
    }])
}

fn cut_once(scene: &mut Scene) -> Result<Duration> {
    let mut client = scene.primary.connect()?;
    client.batch_execute("SET statement_timeout = '60s'; INSERT INTO sample VALUES (0, 'before')")?;
    let start = Instant::now();
    scene
        .primary
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")?;
    client.batch_execute("INSERT INTO sample VALUES (0, 'after')")?;
    Ok(start.elapsed())
}
