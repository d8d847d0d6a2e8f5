//! The right to change inventory and authority.

use umsid_common::durable::{self, Access};

use super::lock::{Lock, PATIENCE};
use super::{Document, DocumentKey, Envelope, Name, Opened, Refreshed, Shared, SharedError};
use crate::home::{Home, HomeLock};

/// The right to change inventory and authority, which one umsid has at a time; ends when dropped. Where state is shared, the
/// copies are the newest there are.
pub struct Change {
    _here: HomeLock,
    everywhere: Option<Everywhere>,
}

struct Everywhere {
    shared: Shared,
    lock: Lock,
    inventory: Document,
    /// The version the authority's key is of.
    envelope: u64,
    opened: Opened,
    key: DocumentKey,
}

impl Change {
    /// Takes it, waiting for whoever has it.
    pub async fn begin(home: &Home) -> Result<Self, SharedError> {
        let here = home.lock().await?;
        let Some(shared) = Shared::of(home)? else { return Ok(Self { _here: here, everywhere: None }) };
        let busy = || SharedError::Busy { url: shared.url.clone() };
        let mut lock = shared.lock("changes", PATIENCE).await?.ok_or_else(busy)?;
        let Refreshed { opened, mut documents, .. } = shared.refresh_by(&mut lock.0, true).await?;
        let envelope = documents[&Name::Key].version;
        let missing = || SharedError::Missing { url: shared.url.clone(), name: Name::Inventory };
        let inventory = documents.remove(&Name::Inventory).ok_or_else(missing)?;
        let key = opened.document_key();
        let everywhere = Some(Everywhere { shared, lock, inventory, envelope, opened, key });
        Ok(Self { _here: here, everywhere })
    }

    /// Makes the inventory's copy, which was changed, the inventory of all; in files it is that already.
    ///
    /// # Errors
    /// Then the copy is put back as it was.
    pub async fn publish_inventory(&mut self) -> Result<(), SharedError> {
        let Some(Everywhere { shared, lock, inventory, key, .. }) = &mut self.everywhere else {
            return Ok(());
        };
        let path = shared.copy(Name::Inventory);
        let text = durable::read_optional(&path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        match shared.put_alone(lock, Name::Inventory, (inventory.version, &text), key).await {
            Ok(()) => {
                inventory.version += 1;
                inventory.body = text;
                Ok(())
            }
            Err(error) => {
                durable::replace(&path, inventory.body.as_bytes(), Access::Private)?;
                Err(error)
            }
        }
    }

    /// The authority's key and who has it now; `None`: state is in files.
    pub fn opened(&self) -> Option<&Opened> {
        self.everywhere.as_ref().map(|everywhere| &everywhere.opened)
    }

    /// Seals the authority's key anew.
    pub async fn replace_envelope(&mut self, new: &Envelope) -> Result<(), SharedError> {
        let Some(Everywhere { shared, lock, envelope, key, .. }) = &mut self.everywhere else {
            return Ok(());
        };
        shared.put_alone(lock, Name::Key, (*envelope, &new.to_text()), key).await?;
        *envelope += 1;
        Ok(())
    }
}

impl Shared {
    /// Writes a document, or says who was faster.
    async fn put_alone(
        &self,
        lock: &mut Lock,
        name: Name,
        new: (u64, &str),
        key: &DocumentKey,
    ) -> Result<(), SharedError> {
        if self.put(&mut lock.0, name, new, key).await? {
            return Ok(());
        }
        let by = self.read(&mut lock.0, name, key).await?.by;
        Err(SharedError::Overtaken { name, by })
    }
}
