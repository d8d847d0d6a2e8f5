use super::*;

const TTL: Duration = Duration::from_secs(60);

fn run(letter: char) -> RunId {
    format!("20261122t204512-00000{letter}").parse().unwrap()
}

fn wish(letter: char, epoch: u64) -> Wish {
    Wish { run: run(letter), epoch, holder: format!("coordinator {letter}"), ttl: TTL, plan: None }
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
    assert!(matches!(clock.check('a', 1), Err(Refusal::Stale { asked: 1, granted: 2 })));
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
    assert!(matches!(clock.acquire('a', 4), Err(Refusal::Stale { asked: 4, granted: 5 })));
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
    assert!(matches!(leases.acquire(&wish('b', 7)), Err(Refusal::Stale { asked: 7, granted: 7 })));
    std::fs::remove_file(&path).unwrap();
    durable::replace(&path, b"{", Access::Private).unwrap();
    assert!(matches!(Leases::load(path), Err(StateError::Damaged { .. })));
}
