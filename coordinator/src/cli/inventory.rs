//! `umsid inventory`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use umsid_common::durable::{self, Access, DurableError};

use super::{Context, Format};
use crate::exit::{Exit, Refusal};
use crate::inventory::Inventory;
use crate::shared::Change;

/// Show the inventory, or edit it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid inventory show
  EDITOR=nano umsid inventory edit

What was edited is checked before it counts. Where several administrators share the state, this is the way to edit it: the
file in the state directory is a copy.")]
pub(super) struct InventoryCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print it
    Show,
    /// Open it in $VISUAL or $EDITOR, and keep what is saved there if it does
    Edit,
}

impl InventoryCommand {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            What::Show => show(context),
            What::Edit => edit(context).await,
        }
    }
}

fn text(context: &Context) -> anyhow::Result<String> {
    context.home.open()?;
    let bytes = durable::read_optional(&context.home.inventory_path())?.context("the inventory is gone")?;
    String::from_utf8(bytes).context("the inventory is not UTF-8 text")
}

fn show(context: &Context) -> anyhow::Result<Exit> {
    let text = text(context)?;
    Inventory::check(&context.home.inventory_path(), &text)?;
    match context.out.format() {
        Format::Json => context.out.json(&toml::from_str::<serde_json::Value>(&text)?)?,
        Format::Table => context.out.text(text.trim_end())?,
    }
    Ok(Exit::Success)
}

/// What a person edits, and the inventory it was begun from.
struct Draft {
    path: PathBuf,
    base: PathBuf,
}

impl Draft {
    /// One begun from this inventory. What was not taken the last time is gone on with.
    ///
    /// # Errors
    /// If the inventory has changed since that was begun: it would undo what others did.
    fn of(context: &Context, inventory: &str) -> anyhow::Result<Self> {
        let file = |name| context.home.dir.join(name);
        let draft = Self { path: file("inventory.draft.toml"), base: file("inventory.draft.base") };
        let begun_from = durable::read_optional(&draft.base)?.unwrap_or_default();
        if durable::read_optional(&draft.path)?.is_some_and(|text| text != begun_from) {
            if begun_from != inventory.as_bytes() {
                return Err(draft.is_overtaken());
            }
            context
                .out
                .say(format_args!("this is {}, which was not taken the last time", draft.path.display()));
            return Ok(draft);
        }
        durable::replace(&draft.path, inventory.as_bytes(), Access::Private)?;
        durable::replace(&draft.base, inventory.as_bytes(), Access::Private)?;
        Ok(draft)
    }

    fn is_overtaken(&self) -> anyhow::Error {
        let what = "the inventory was changed meanwhile: nothing was changed here";
        let remedy = format!("your text is in {}: compare, remove it, and edit again", self.path.display());
        Refusal::new(Exit::Locked, what).remedy(remedy).into()
    }

    fn remove(&self) -> Result<(), DurableError> {
        durable::remove(&self.path)?;
        durable::remove(&self.base).map(drop)
    }
}

async fn edit(context: &Context) -> anyhow::Result<Exit> {
    let before = text(context)?;
    let kept = Draft::of(context, &before)?;
    let draft = &kept.path;
    open_in_editor(draft).await?;
    let after = durable::read_optional(draft)?.context("the editor removed the file")?;
    let after = String::from_utf8(after).context("what was saved is not UTF-8 text")?;
    if after == before {
        kept.remove().context("the draft stays")?;
        context.out.say("nothing was changed");
        return Ok(Exit::Success);
    }
    let new = Inventory::check(draft, &after)?;
    let path = context.home.inventory_path();
    // An inventory that is broken may be mended this way, too.
    if let Ok(old) = Inventory::check(&path, &before)
        && old.trust_domain != new.trust_domain
    {
        let what = format!(
            "the trust domain is that of all certificates, {}: nothing was changed",
            old.trust_domain
        );
        return Err(Refusal::new(Exit::Usage, what)
            .remedy("`umsid inventory edit` again, and put it back")
            .into());
    }
    // Not held while a person thinks.
    let mut change = Change::begin(&context.home).await?;
    if text(context)? != before {
        return Err(kept.is_overtaken());
    }
    durable::replace(&path, after.as_bytes(), Access::Private)?;
    change.publish_inventory().await?;
    kept.remove().context("the inventory is changed, the draft stays")?;
    context.out.say("the inventory is changed");
    Ok(Exit::Success)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a person's editor has no deadline and the terminal for itself"
)]
async fn open_in_editor(path: &Path) -> anyhow::Result<()> {
    let named = ["VISUAL", "EDITOR"].iter().filter_map(|name| std::env::var(name).ok());
    let editor = named.into_iter().find(|value| !value.trim().is_empty());
    let editor = editor.unwrap_or_else(|| if cfg!(windows) { "notepad" } else { "vi" }.to_owned());
    // With its arguments, as `code --wait`.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = tokio::process::Command::new(program).args(words).arg(path).status().await;
    let status = status.map_err(|error| {
        Refusal::new(Exit::Usage, format!("the editor `{editor}` cannot be started: {error}"))
            .remedy("name another in the environment variable EDITOR")
    })?;
    if !status.success() {
        let what = format!("the editor `{editor}` ended with {status}: nothing was changed");
        return Err(Refusal::new(Exit::Failed, what).into());
    }
    Ok(())
}
