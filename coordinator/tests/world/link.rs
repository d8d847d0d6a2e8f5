//! A line with a delay and losses, as seen by whoever speaks TCP over it: everything comes late and in order, and what
//! is lost comes again after a pause in which nothing comes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a line is.
#[derive(Clone, Copy)]
pub(crate) struct Quality {
    /// From one end to the other.
    pub(crate) delay: Duration,
    /// Of a hundred pieces, so many are lost.
    pub(crate) loss: u8,
    /// Which.
    pub(crate) seed: u64,
}

impl Quality {
    /// Nobody notices it.
    pub(crate) const PERFECT: Self = Self { delay: Duration::ZERO, loss: 0, seed: 0 };

    /// After this time what was lost is sent again: the round trip, and the least that TCP waits besides.
    fn again_after(self) -> Duration {
        self.delay * 2 + Duration::from_millis(200)
    }
}

/// A piece, and when it comes out at the other end.
type Piece = (Instant, Vec<u8>);

/// A line to a server.
pub(crate) struct Link {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    traffic: Arc<Traffic>,
}

/// What goes on on a line.
#[derive(Default)]
struct Traffic {
    /// Nothing comes out at the far end.
    held: AtomicBool,
    /// Pieces that went in at the near end.
    sent: AtomicUsize,
    /// Pieces that came back.
    back: AtomicUsize,
}

impl Link {
    /// To this address, with this quality.
    pub(crate) fn to(target: SocketAddr, quality: Quality) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let traffic = Arc::<Traffic>::default();
        let (known, goes_on) = (open.clone(), traffic.clone());
        // It ends with this program.
        std::thread::spawn(move || {
            for (number, near) in listener.incoming().flatten().enumerate() {
                let (known, traffic) = (known.clone(), goes_on.clone());
                let quality =
                    Quality { seed: quality.seed.wrapping_mul(31).wrapping_add(number as u64), ..quality };
                std::thread::spawn(move || connect(&near, target, quality, &known, &traffic));
            }
        });
        Self { address, open, traffic }
    }

    /// Where the near end is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on what is sent stays on the line.
    pub(crate) fn hold(&self) {
        self.traffic.held.store(true, Ordering::SeqCst);
    }

    /// It comes out now.
    pub(crate) fn let_go(&self) {
        self.traffic.held.store(false, Ordering::SeqCst);
    }

    /// How many pieces were sent, and how many came back.
    pub(crate) fn pieces(&self) -> (usize, usize) {
        (self.traffic.sent.load(Ordering::SeqCst), self.traffic.back.load(Ordering::SeqCst))
    }

    /// Breaks all connections that there are; new ones can be made.
    pub(crate) fn sever(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has ended is what is wanted.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn connect(
    near: &TcpStream,
    target: SocketAddr,
    quality: Quality,
    open: &Mutex<Vec<TcpStream>>,
    traffic: &Arc<Traffic>,
) {
    // There and back, until it is known that there is somebody.
    std::thread::sleep(quality.delay * 2);
    let Ok(far) = TcpStream::connect(target) else { return };
    let twin = |stream: &TcpStream| stream.try_clone().unwrap();
    open.lock().unwrap_or_else(PoisonError::into_inner).extend([twin(near), twin(&far)]);
    for stream in [near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    carry(twin(near), twin(&far), quality, traffic.clone(), true);
    carry(far, twin(near), Quality { seed: !quality.seed, ..quality }, traffic.clone(), false);
}

/// Everything that comes from one end to the other.
fn carry(mut from: TcpStream, mut to: TcpStream, quality: Quality, traffic: Arc<Traffic>, forth: bool) {
    let (enters, leaves) = channel::<Piece>();
    let seen = traffic.clone();
    std::thread::spawn(move || {
        let mut chance = fastrand::Rng::with_seed(quality.seed);
        let mut last = Instant::now();
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read) = from.read(&mut buffer) {
            let lost = chance.u8(..100) < quality.loss;
            let late = if lost { quality.again_after() } else { Duration::ZERO };
            // Nothing overtakes anything.
            last = last.max(Instant::now() + quality.delay + late);
            if read == 0 || enters.send((last, buffer[..read].to_vec())).is_err() {
                break;
            }
            if forth { &seen.sent } else { &seen.back }.fetch_add(1, Ordering::SeqCst);
        }
    });
    std::thread::spawn(move || {
        while let Ok((due, piece)) = leaves.recv() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            while forth && traffic.held.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
