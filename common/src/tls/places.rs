//! A limited number of places, shared fairly: when there is one too many, whoever has the most loses one.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;

/// Who takes a place.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Whose share it counts towards: an address, or an identity.
    pub(super) who: String,
    /// What it proved to be with, leaf first; empty as long as it has not.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// Which place of the one with the most is lost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loses {
    /// For what an honest guest is done with in a moment: what lasts is what stalls.
    Oldest,
    /// For what an honest guest has for long: what is there already stays.
    Newest,
}

/// The places.
pub(super) struct Places {
    limit: usize,
    loses: Loses,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    by_age: BTreeMap<u64, Seat>,
}

struct Seat {
    guest: Guest,
    /// Dropped with the seat: that is how its place learns that it is lost.
    _held: oneshot::Sender<()>,
}

/// A place; given back when dropped. As a future it is done when the place is lost.
pub(super) struct Place {
    number: u64,
    /// `None`: it is.
    lost: Option<oneshot::Receiver<()>>,
    places: Arc<Places>,
}

impl Places {
    pub(super) fn new(limit: usize, loses: Loses) -> Arc<Self> {
        Arc::new(Self { limit, loses, taken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place. With none free somebody loses one, the newcomer perhaps: who, is told.
    pub(super) fn take(self: &Arc<Self>, guest: Guest) -> (Place, Option<String>) {
        let (held, lost) = oneshot::channel();
        let mut taken = self.lock();
        let number = taken.next;
        taken.next += 1;
        taken.by_age.insert(number, Seat { guest, _held: held });
        let surplus = taken.by_age.len() > self.limit;
        let loser = surplus.then(|| taken.loser(self.loses)).flatten();
        let loser = loser.and_then(|number| taken.by_age.remove(&number)).map(|seat| seat.guest.who);
        drop(taken);
        (Place { number, lost: Some(lost), places: self.clone() }, loser)
    }

    /// Takes the places of those who are not welcome any more; how many.
    pub(super) fn clear(&self, welcome: impl Fn(&[CertificateDer<'static>]) -> bool) -> usize {
        let guests: Vec<_> =
            self.lock().by_age.iter().map(|(number, seat)| (*number, seat.guest.chain.clone())).collect();
        // Judging takes a while: nobody waits for it.
        let unwelcome: Vec<u64> =
            guests.into_iter().filter(|(_, chain)| !welcome(chain)).map(|(number, _)| number).collect();
        let mut taken = self.lock();
        unwelcome.iter().filter(|number| taken.by_age.remove(number).is_some()).count()
    }
}

impl Taken {
    fn loser(&self, loses: Loses) -> Option<u64> {
        let mut shares = HashMap::<&str, usize>::new();
        for seat in self.by_age.values() {
            *shares.entry(&seat.guest.who).or_default() += 1;
        }
        let most = shares.values().max()?;
        let mut theirs = self
            .by_age
            .iter()
            .filter(|(_, seat)| shares[seat.guest.who.as_str()] == *most)
            .map(|(no, _)| *no);
        match loses {
            Loses::Oldest => theirs.next(),
            Loses::Newest => theirs.next_back(),
        }
    }
}

impl Future for Place {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lost) = &mut self.lost else { return Poll::Ready(()) };
        if Pin::new(lost).poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.lost = None;
        Poll::Ready(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(who: &str) -> Guest {
        Guest { who: who.into(), chain: Vec::new() }
    }

    fn is_lost(place: &mut Place) -> bool {
        let lost = place.lost.as_mut().unwrap();
        lost.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn who_takes_the_most_loses_the_oldest() {
        let places = Places::new(4, Loses::Oldest);
        let mut rare = places.take(guest("rare")).0;
        let mut greedy: Vec<_> = (0..3).map(|_| places.take(guest("greedy")).0).collect();
        let (mut new, loser) = places.take(guest("new"));
        assert_eq!(loser.as_deref(), Some("greedy"));
        assert!(is_lost(&mut greedy[0]));
        let (mut more, loser) = places.take(guest("greedy"));
        assert_eq!(loser.as_deref(), Some("greedy"));
        assert!(is_lost(&mut greedy[1]) && !is_lost(&mut more));
        assert!(!is_lost(&mut rare) && !is_lost(&mut new));
    }

    #[test]
    fn what_is_there_already_stays_where_the_newest_is_lost() {
        let places = Places::new(2, Loses::Newest);
        let (mut first, _) = places.take(guest("anna"));
        let (mut second, _) = places.take(guest("anna"));
        let (mut third, loser) = places.take(guest("anna"));
        assert_eq!(loser.as_deref(), Some("anna"));
        assert!(is_lost(&mut third) && !is_lost(&mut first) && !is_lost(&mut second));
        // Somebody else gets one of hers.
        let (mut other, _) = places.take(guest("otto"));
        assert!(!is_lost(&mut other) && !is_lost(&mut first) && is_lost(&mut second));
    }

    #[test]
    fn a_place_given_back_is_free() {
        let places = Places::new(1, Loses::Oldest);
        drop(places.take(guest("a")));
        let (mut place, loser) = places.take(guest("a"));
        assert_eq!(loser, None);
        assert_eq!(places.clear(|_| true), 0);
        assert!(!is_lost(&mut place));
        assert_eq!(places.clear(|_| false), 1);
        assert!(is_lost(&mut place));
    }
}
