//! What the kernel has.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::buffer::Slots;
use super::segment::NameChange;
use super::{durable, op};
use crate::core::lsn::SegmentNumber;
use crate::core::writes::Slot;

/// The operations of one stream that have not ended.
pub(super) struct Flight {
    pub(super) receive: Option<(Slot, op::Receive)>,
    pub(super) cancel: Option<op::InFlight<Rc<OwnedFd>>>,
    /// By slot.
    pub(super) writes: Vec<Option<Writing>>,
    pub(super) sync: Option<Syncing>,
    pub(super) names: Option<Naming>,
}

/// A write.
pub(super) struct Writing {
    pub(super) segment: SegmentNumber,
    pub(super) durable: bool,
    pub(super) issued: Duration,
    pub(super) write: durable::Write,
}

/// A sync of a segment's file.
pub(super) struct Syncing {
    pub(super) segment: SegmentNumber,
    pub(super) issued: Duration,
    pub(super) sync: op::Sync,
}

/// A change of names.
pub(super) struct Naming {
    pub(super) order: NameOrder,
    pub(super) issued: Duration,
    pub(super) change: NameChange,
}

/// Which change of names it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum NameOrder {
    /// The segment's file gets its name with `.partial`.
    Name(SegmentNumber),
    /// The segment loses its `.partial`; whether the next one gets its name.
    Finish(SegmentNumber, bool),
}

impl Flight {
    /// Nothing is in flight.
    pub(super) fn new(slots: &Slots) -> Flight {
        let writes = (0..slots.count()).map(|_| None).collect();
        Flight {
            receive: None,
            cancel: None,
            writes,
            sync: None,
            names: None,
        }
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        let Flight {
            receive,
            cancel,
            writes,
            sync,
            names,
        } = self;
        receive.is_none()
            && cancel.is_none()
            && writes.iter().all(Option::is_none)
            && sync.is_none()
            && names.is_none()
    }
}
