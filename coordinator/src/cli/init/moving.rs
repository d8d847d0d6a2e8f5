//! `umsid init --move`: from files into the database of several administrators.
//!
//! That the state is elsewhere is written down before anything arrives there: from then on nobody changes the files, and what was
//! broken off is done by typing it again. What is in the database is there all at once.

use anyhow::Context as _;
use umsid_common::durable;
use umsid_common::fault;
use umsid_common::name::{CallerName, Identity, Role};

use super::super::{Context, own_identity, prepare};
use super::{InShared, Init, Made, ask};
use crate::authority::{Authority, RegisterLock};
use crate::database::{Location, StateUrl};
use crate::exit::{Exit, Refusal};
use crate::home::HomeLock;
use crate::inventory::Inventory;
use crate::journal::Journal;
use crate::shared::{ClusterLock, DocumentKey, Envelope, Name, Shared, SharedError};

impl Init {
    /// Moves the state of this directory into an empty database, or finishes that.
    pub(super) async fn move_to(self, context: &Context, url: StateUrl) -> anyhow::Result<Exit> {
        let home = &context.home;
        home.open().context("nothing was moved")?;
        let dir = home.dir.display();
        let (changes, _others) = alone(context).await?;
        let kept = Shared::of(home)?;
        if let Some(kept) = kept.as_ref().filter(|kept| *kept.url() != url) {
            let what = format!("the state of {dir} is in {}, not in its own files", kept.url());
            return Err(Refusal::new(Exit::Usage, what).remedy("it is moved out of files only").into());
        }
        let Identity { trust_domain, role: Role::Coordinator(name) } = own_identity(&home.tls_files())?
        else {
            return Err(Refusal::new(
                Exit::Certificate,
                format!("the certificate in {dir} is no coordinator's"),
            )
            .into());
        };
        let shared = Shared::at(home, url.clone(), name.as_str());
        shared.make_tables().await?;
        let begun = shared.is_begun().await?;
        if begun && kept.is_none() {
            let what = format!("there is shared state in {url} already, and nothing is put over it");
            return Err(Refusal::new(Exit::Usage, what)
                .remedy(format!(
                    "name an empty database; the state there is joined from another directory: umsid init --state '{url}'"
                ))
                .into());
        }
        if !begun {
            self.begin_with(context, &shared, &name).await?;
        }
        // Whoever put something else there meanwhile, is found out before anything is removed here.
        let opened = shared.refresh_alone(&changes).await?.opened;
        let authority = Authority::open_shared(&home.authority_dir(), shared.clone(), Some(&opened.key_pem))?;
        let identity = Identity { trust_domain: trust_domain.clone(), role: Role::Coordinator(name) };
        let issued = authority.newest(&identity).context("our certificate is not on record there")?;
        fault::moment("move arrived");
        while let Some(key) = home.own_authority_key() {
            durable::remove(&key)?;
        }
        let aside =
            home.put_journal_aside().context("the journal cannot be put aside, and counts no more")?;
        let made = Made {
            state_dir: home.dir.clone(),
            trust_domain,
            coordinator: identity.to_string(),
            certificate_until: issued.not_after,
            key_under_passphrase: false,
            shared: Some(InShared {
                url: url.to_string(),
                begun: true,
                moved: true,
                administrators: opened.administrators.keys().cloned().collect(),
                authority: authority.fingerprint(),
            }),
        };
        let exit = made.print(context)?;
        context.out.say(format_args!(
            "the authority's key is not in {dir} any more, but in every backup of it from before{}",
            aside.map_or_else(String::new, |aside| format!(
                "; the journal as it was is kept as {}",
                aside.display()
            ))
        ));
        Ok(exit)
    }

    /// Puts everything there. Fails with nothing there, or, with the database gone in the middle, without knowing.
    async fn begin_with(&self, context: &Context, shared: &Shared, name: &CallerName) -> anyhow::Result<()> {
        let home = &context.home;
        let authority = Authority::open(&home.authority_dir())?;
        ask::Passphrase { passphrase_file: self.passphrase_file.clone() }.unlock(&authority)?;
        let key_pem = authority.key_pem()?;
        let inventory = durable::read_optional(&home.inventory_path())?.unwrap_or_default();
        let inventory = String::from_utf8(inventory).context("the inventory is no text")?;
        let own = (name.clone(), shared.own_key()?.recipient());
        let documents = [
            (Name::Certificate, authority.anchors_pem().to_owned()),
            (Name::Register, authority.register_text()?),
            (Name::Inventory, inventory),
            (Name::Key, Envelope::seal(&key_pem, [own].into())?.to_text()),
        ];
        let journal = match home.database_path().exists() {
            true => Some(Journal::open(&Location::File(home.database_path())).await?),
            false => None,
        };
        shared.remember()?;
        fault::moment("move remembered");
        let arrived = shared.begin(&documents, &DocumentKey::of(&key_pem), journal.as_ref()).await;
        if let Some(journal) = journal {
            journal.close().await;
        }
        match arrived {
            Err(error @ SharedError::InDoubt { .. }) => Err(error.into()),
            Err(error) => {
                shared.forget()?;
                Err(anyhow::Error::new(error).context("nothing was moved"))
            }
            Ok(()) => Ok(()),
        }
    }
}

/// What keeps all others from changing anything here.
struct Others {
    _register: RegisterLock,
    _watching: HomeLock,
    _clusters: Vec<ClusterLock>,
}

/// Nobody else changes anything here, carries out runs, or watches.
async fn alone(context: &Context) -> anyhow::Result<(HomeLock, Others)> {
    let home = &context.home;
    let changes = home.lock().await?;
    let watching = home.lock_watch()?.ok_or_else(|| {
        Refusal::new(Exit::Locked, format!("`umsid watch` is at work in {}", home.dir.display()))
            .remedy("stop it, and start it again when the state is moved")
    })?;
    let mut clusters = Vec::new();
    for cluster in Inventory::load(&home.inventory_path())?.clusters.keys() {
        clusters.push(prepare::lock_wherever(context, cluster).await?);
    }
    let register = RegisterLock::take(&home.authority_dir())?;
    Ok((changes, Others { _register: register, _watching: watching, _clusters: clusters }))
}
