//! What a server shows that could not be put back as it was: for the person who has to decide.

use super::Crew;
use super::event::Halt;

/// Looks at the server a run is stuck on, as long as nobody asks the run to stop. What cannot be told is left open.
pub(super) async fn look(mut halt: Halt, crew: &Crew) -> Halt {
    let Some(stuck) = &mut halt.stuck else { return halt };
    let Some(agent) = crew.agents.get(&stuck.server) else { return halt };
    tokio::select! {
        () = crew.stop.cancelled() => {}
        seen = tokio::time::timeout(crew.pace.contact, agent.inspect(false)) => match seen {
            Ok(Ok(inspection)) => stuck.shows = inspection.ums_ids.local,
            Ok(Err(error)) => tracing::debug!(server = %stuck.server, %error, "no look at it"),
            Err(_) => tracing::debug!(server = %stuck.server, "no look at it in time"),
        },
    }
    halt
}
