use super::*;

const TTL: Duration = Duration::from_secs(60);

fn run(letter: char) -> RunId {
    format!("20261122t204512-00000{letter}").parse().unwrap()
}

fn wish(letter: char, epoch: u64) -> Wish {
    Wish {
        run: run(letter),
        epoch,
        holder: format!("coordinator {letter}"),
        ttl: TTL,
        plan: None,
        breaks: None,
    }
}

fn lease(letter: char, epoch: u64) -> LeaseRef {
    LeaseRef { run: run(letter), epoch }
}

/// The lease book on a clock that only moves when told to.
struct Clock {
    inner: Inner,
    start: Now,
    passed: Duration,
}

impl Clock {
    fn new() -> Self {
        let start = Now::get();
        let inner = Inner { book: Book::default(), deadline: start.steady, working: 0 };
        Self { inner, start, passed: Duration::ZERO }
    }

    fn now(&self) -> Now {
        Now { steady: self.start.steady + self.passed, wall: self.start.wall }
    }

    fn acquire(&mut self, letter: char, epoch: u64) -> Result<(), Refusal> {
        self.inner.book = self.inner.grant(&wish(letter, epoch), self.now())?;
        self.inner.deadline = self.now().steady + TTL;
        Ok(())
    }

    fn check(&self, letter: char, epoch: u64) -> Result<(), Refusal> {
        self.inner.check(&lease(letter, epoch), self.now()).map(drop)
    }
}

#[test]
fn a_second_run_is_refused_until_the_first_has_run_out() {
    let mut clock = Clock::new();
    clock.acquire('a', 1).unwrap();
    assert!(matches!(clock.acquire('b', 2), Err(Refusal::Held(held)) if held.run == run('a')));
    clock.passed = TTL;
    clock.acquire('b', 2).unwrap();
    assert!(matches!(clock.check('a', 1), Err(Refusal::Stale { asked: 1, granted: 2, .. })));
}

#[test]
fn a_lease_that_ran_out_without_a_rival_must_be_acquired_again() {
    let mut clock = Clock::new();
    clock.acquire('a', 1).unwrap();
    clock.passed = TTL;
    assert!(matches!(clock.check('a', 1), Err(Refusal::Lost { held: None, .. })));
    clock.acquire('a', 1).unwrap();
    clock.check('a', 1).unwrap();
}

#[test]
fn an_operation_keeps_the_lease_alive() {
    let mut clock = Clock::new();
    clock.acquire('a', 1).unwrap();
    clock.inner.working = 1;
    clock.passed = TTL * 100;
    assert!(matches!(clock.acquire('b', 2), Err(Refusal::Held(_))));
    clock.check('a', 1).unwrap();
    clock.inner.working = 0;
    clock.acquire('b', 2).unwrap();
}

#[test]
fn epochs_only_rise_and_the_same_run_may_raise_its_own() {
    let mut clock = Clock::new();
    assert!(matches!(clock.acquire('a', 0), Err(Refusal::Stale { .. })));
    clock.acquire('a', 5).unwrap();
    clock.acquire('a', 5).unwrap();
    assert!(matches!(clock.acquire('a', 4), Err(Refusal::Stale { asked: 4, granted: 5, .. })));
    clock.acquire('a', 6).unwrap();
    assert!(matches!(clock.check('a', 5), Err(Refusal::Stale { .. })));
    assert!(matches!(clock.check('a', 7), Err(Refusal::Lost { held: Some(_), .. })));
    clock.check('a', 6).unwrap();
}

#[test]
fn what_is_released_can_be_released_again_but_never_granted_again() {
    let dir = tempfile::tempdir().unwrap();
    let leases = Leases::load(dir.path().join("lease.json")).unwrap();
    leases.acquire(&wish('a', 1)).unwrap();
    leases.release(&lease('a', 1)).unwrap();
    leases.release(&lease('a', 1)).unwrap();
    assert!(matches!(leases.acquire(&wish('a', 1)), Err(Refusal::Stale { .. })));
    leases.acquire(&wish('b', 2)).unwrap();
    assert!(matches!(leases.release(&lease('a', 1)), Err(Refusal::Stale { .. })));
    let working = leases.engage(&lease('b', 2)).unwrap();
    assert!(matches!(leases.release(&lease('b', 2)), Err(Refusal::Working(_))));
    drop(working);
    leases.release(&lease('b', 2)).unwrap();
}

#[test]
fn a_restarted_agent_knows_the_lease_and_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease.json");
    let leases = Leases::load(path.clone()).unwrap();
    leases.acquire(&wish('a', 7)).unwrap();
    drop(leases);

    let leases = Leases::load(path.clone()).unwrap();
    leases.check(&lease('a', 7)).unwrap();
    assert!(matches!(leases.acquire(&wish('b', 8)), Err(Refusal::Held(_))));
    leases.release(&lease('a', 7)).unwrap();
    drop(leases);

    let leases = Leases::load(path.clone()).unwrap();
    assert!(matches!(leases.acquire(&wish('b', 7)), Err(Refusal::Stale { asked: 7, granted: 7, .. })));
    std::fs::remove_file(&path).unwrap();
    durable::replace(&path, b"{", Access::Private).unwrap();
    assert!(matches!(Leases::load(path), Err(StateError::Damaged { .. })));
}

fn break_of(letter: char, epoch: u64, broken: LeaseRef) -> Wish {
    Wish { breaks: Some(broken), ..wish(letter, epoch) }
}

#[test]
fn only_the_very_lease_that_is_named_is_broken_and_never_under_an_operation() {
    let mut clock = Clock::new();
    clock.acquire('a', 3).unwrap();
    let now = clock.now();
    // Another run, another epoch, an epoch that does not rise: nothing is broken.
    for wanted in [break_of('c', 9, lease('b', 3)), break_of('c', 9, lease('a', 2))] {
        assert!(matches!(clock.inner.grant(&wanted, now), Err(Refusal::Held(held)) if held.run == run('a')));
    }
    let low = clock.inner.grant(&break_of('c', 3, lease('a', 3)), now);
    assert!(matches!(low, Err(Refusal::Stale { asked: 3, granted: 3, .. })));
    clock.inner.working = 1;
    let working = clock.inner.grant(&break_of('c', 4, lease('a', 3)), now);
    assert!(matches!(working, Err(Refusal::Working(by)) if by == run('a')));
    clock.inner.working = 0;
    clock.check('a', 3).unwrap();

    clock.inner.book = clock.inner.grant(&break_of('c', 4, lease('a', 3)), now).unwrap();
    let told = clock.check('a', 3).unwrap_err();
    assert!(
        matches!(&told, Refusal::Unlocked { unlocked, .. } if unlocked.by == "coordinator c"),
        "{told:?}"
    );
    assert_eq!(Failure::from(told).code, Code::StaleEpoch);
    assert!(matches!(clock.acquire('a', 3), Err(Refusal::Held(_))));
    // Who comes with another old epoch is not told a story that is not his.
    assert!(matches!(clock.check('b', 2), Err(Refusal::Stale { .. })));
}

#[test]
fn who_broke_a_lease_outlives_the_agent_and_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease.json");
    let leases = Leases::load(path.clone()).unwrap();
    leases.acquire(&wish('a', 1)).unwrap();
    leases.acquire(&break_of('c', 2, lease('a', 1))).unwrap();
    leases.release(&lease('c', 2)).unwrap();
    drop(leases);
    let leases = Leases::load(path).unwrap();
    leases.acquire(&wish('b', 3)).unwrap();
    for refused in [leases.check(&lease('a', 1)), leases.renew(&lease('a', 1)).map(drop)] {
        assert!(matches!(refused, Err(Refusal::Unlocked { .. })), "{refused:?}");
    }
    leases.release(&lease('b', 3)).unwrap();
    leases.acquire(&wish('a', 4)).unwrap();
    leases.check(&lease('a', 4)).unwrap();
}

/// An agent whose clock was set back, or whose lease was granted in what is now the future, knows the epoch all the same;
/// and how long a lease lasts the wall clock does not say.
#[test]
fn the_wall_clock_decides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease.json");
    for moved in [SignedDuration::from_hours(-24 * 400), SignedDuration::from_hours(24 * 400)] {
        let held = Held {
            run: run('a'),
            epoch: 7,
            holder: String::new(),
            since: Timestamp::now() + moved,
            ttl_ms: 60_000,
            plan: None,
        };
        let book = Book { epoch: 7, held: Some(held), ..Book::default() };
        durable::replace(&path, &serde_json::to_vec(&book).unwrap(), Access::Private).unwrap();
        let leases = Leases::load(path.clone()).unwrap();
        assert_eq!(leases.current().1, 7);
        leases.check(&lease('a', 7)).unwrap();
        assert!(matches!(leases.acquire(&wish('b', 8)), Err(Refusal::Held(_))));
        assert!(matches!(leases.acquire(&wish('a', 6)), Err(Refusal::Stale { .. })));
        let inner = leases.lock();
        let later = Now { steady: inner.deadline, wall: inner.book.held.as_ref().unwrap().since };
        assert!(inner.live(later).is_none(), "it ran out by the clock that only goes on");
        let earlier = Now { wall: Timestamp::MAX, ..Now::get() };
        assert!(inner.live(earlier).is_some());
    }
}
