//! The stand-in for the UMS Server process: reads its UMS ID, synchronizes it, answers on its web port.

mod health;
mod start_up;
mod web;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::books::{Event, Lifecycle};
use crate::description::Description;
use crate::layout::ServerDir;
use crate::process;
use crate::settings::{Settings, Start};
use crate::store::{self, Access};

/// How often a server looks whether whoever the lab belongs to still lives.
const OWNER: Duration = Duration::from_secs(1);

/// Runs the UMS Server of the given directory until it is told to stop. The answer is the process's exit code.
pub(crate) fn run(server: &ServerDir) -> io::Result<u8> {
    process::leave_session();
    run_with(server, Stop::listen)
}

/// The same, until this says so.
#[cfg(windows)]
pub(crate) fn run_until(server: &ServerDir, stop: tokio::sync::watch::Receiver<bool>) -> io::Result<u8> {
    run_with(server, || Ok(Stop(Some(stop))))
}

fn run_with(server: &ServerDir, stop: impl FnOnce() -> io::Result<Stop>) -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit = runtime.block_on(async {
        // The pid file invites signals: whoever sends one must find somebody who listens.
        let stop = stop()?;
        store::replace(&server.pid_file(), format!("{}\n", std::process::id()).as_bytes(), Access::Public)?;
        Lifecycle::note(server, Event::Started)?;
        tokio::select! {
            exit = live(server) => exit,
            exit = told_to_stop(server, stop) => exit,
        }
    });
    // What still hangs must not hold the end.
    runtime.shutdown_background();
    exit
}

async fn live(server: &ServerDir) -> io::Result<u8> {
    let settings = Settings::read(server).map_err(io::Error::other)?;
    log(server, "INFO", &format!("UMS Server {} starts", settings.version));
    let start = settings.start;
    match start {
        Start::Refuses => return refuse(server, "the configuration of the server is invalid"),
        Start::Never => std::future::pending::<()>().await,
        Start::AfterMs(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Start::Normal | Start::DiesAfterMs(_) | Start::OldId => {}
    }
    let directory = server.clone();
    let started = tokio::task::spawn_blocking(move || start_up::start_up(&directory, &settings));
    match started.await.map_err(io::Error::other)? {
        Ok(()) => {}
        Err(refusal) => {
            let mut text = refusal.to_string();
            let mut source = std::error::Error::source(&refusal);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            return refuse(server, &text);
        }
    }
    let health = Arc::new(health::Health::new(server.clone()));
    let web = web::Web::bind(server, Arc::clone(&health)).await?;
    Lifecycle::note(server, Event::Listening)?;
    log(server, "INFO", "UMS Server started");
    tokio::select! {
        never = web.serve() => match never {},
        never = health.recompute() => match never {},
        () = death(start) => {
            log(server, "FATAL", "Unexpected error, the server ends");
            Lifecycle::note(server, Event::Died)?;
            Ok(1)
        }
    }
}

async fn death(start: Start) {
    match start {
        Start::DiesAfterMs(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        _ => std::future::pending().await,
    }
}

fn refuse(server: &ServerDir, why: &str) -> io::Result<u8> {
    log(server, "FATAL", &format!("The server cannot start: {why}"));
    Lifecycle::note(server, Event::Refused)?;
    Ok(1)
}

async fn told_to_stop(server: &ServerDir, mut stop: Stop) -> io::Result<u8> {
    tokio::select! {
        () = stop.asked() => {}
        () = orphaned(server) => {}
    }
    let stop_ms = Settings::read(server).map_or(0, |settings| settings.stop_ms);
    tokio::time::sleep(Duration::from_millis(stop_ms)).await;
    log(server, "INFO", "UMS Server stopped");
    Lifecycle::note(server, Event::Stopped)?;
    Ok(0)
}

/// The wish that this process ends.
#[cfg(unix)]
struct Stop(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?))
    }

    async fn asked(&mut self) {
        self.0.recv().await;
    }
}

/// By the service manager, or at a console.
#[cfg(not(unix))]
struct Stop(Option<tokio::sync::watch::Receiver<bool>>);

#[cfg(not(unix))]
impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self(None))
    }

    async fn asked(&mut self) {
        // Where there is nobody who could ask, such a process is ended from outside.
        match &mut self.0 {
            Some(asked) => drop(asked.wait_for(|asked| *asked).await),
            None => drop(tokio::signal::ctrl_c().await),
        }
    }
}

/// Comes back when the process the lab was made for is gone, or the lab itself: a test that was killed leaves no servers
/// behind.
async fn orphaned(server: &ServerDir) {
    // Read anew each time: a lab may be set free.
    while Description::read(&server.lab()).is_ok_and(|lab| lab.owner.is_none_or(process::exists)) {
        tokio::time::sleep(OWNER).await;
    }
}

/// Writes a line to the server's log (UMS_FACTS §4).
fn log(server: &ServerDir, level: &str, text: &str) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S,%3f");
    // A server whose log cannot be written goes on, as any Java program would.
    let _ = store::append_line(
        &server.logs().join("rmguiserver.log"),
        &format!("{now} {level:<5} [main] {text}"),
    );
}
