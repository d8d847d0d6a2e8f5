//! Telling the agents whom to trust, when somebody is not to be trusted any more.

use anyhow::Context as _;
use serde::Serialize;

use super::Context;
use crate::agents::Agents;
use crate::authority::Authority;
use crate::inventory::Inventory;

/// Who has the newest revocation list, and who gets it at the next contact.
#[derive(Serialize)]
pub(super) struct Told {
    crl_number: u64,
    told: Vec<String>,
    not_told: Vec<String>,
}

/// Gives every agent of this inventory the trust anchors and the newest revocation list. One that cannot be reached is said,
/// and no reason to stop.
pub(super) async fn tell(
    context: &Context,
    agents: &Agents,
    inventory: &Inventory,
    authority: &Authority,
) -> anyhow::Result<Told> {
    let (crl_pem, crl_number) = authority.crl();
    let mut pushes = tokio::task::JoinSet::new();
    for (cluster, name, server) in inventory.servers() {
        let (agents, cluster, name, server) = (agents.clone(), cluster.clone(), name.clone(), server.clone());
        let (anchors, crl) = (authority.anchors_pem().to_owned(), crl_pem.clone());
        pushes.spawn(async move {
            let pushed = match agents.dial(&cluster, &name, &server).await {
                Ok(agent) => agent.push_trust(&anchors, &crl, crl_number).await.map(|_| ()),
                Err(error) => Err(error),
            };
            (format!("{cluster}/{name}"), pushed)
        });
    }
    let (mut told, mut not_told) = (Vec::new(), Vec::new());
    while let Some(joined) = pushes.join_next().await {
        match joined.context("telling an agent broke off")? {
            (name, Ok(())) => told.push(name),
            (name, Err(error)) => {
                context.out.say(format_args!("{name} was not told: {:#}", anyhow::Error::new(error)));
                not_told.push(name);
            }
        }
    }
    told.sort();
    not_told.sort();
    Ok(Told { crl_number, told, not_told })
}

impl Told {
    /// Of the revocation list.
    pub(super) fn crl_number(&self) -> u64 {
        self.crl_number
    }

    /// For people.
    pub(super) fn print(&self, context: &Context) -> anyhow::Result<()> {
        if !self.told.is_empty() {
            context.out.text(format_args!("told: {}", self.told.join(", ")))?;
        }
        if !self.not_told.is_empty() {
            let not_told = self.not_told.join(", ");
            context.out.text(format_args!("not told, they will be at the next contact: {not_told}"))?;
        }
        Ok(())
    }
}
