//! What the programs are made of, as CycloneDX: one document for each package.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{release, source_date};
use crate::files;
use crate::program::{Program, root};

/// Where in the workspace the packages are made of.
const PACKAGES: [(&str, &str); 2] = [("agent", "umsid-agent"), ("coordinator", "umsid")];

/// What agent and coordinator are made of on one system.
pub(super) struct Documents(Vec<(&'static str, Vec<u8>)>);

impl Documents {
    /// By `Cargo.lock`, for this target.
    pub(super) fn new(target: &str) -> anyhow::Result<Self> {
        let tool = release::tool("cargo-cyclonedx", "0.5.9")?;
        let name = format!("umsid.{}.part", std::process::id());
        let described = Program::new(&tool)
            .in_dir(&root())
            .args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--target", target, "--quiet"])
            .args(["--override-filename", &name])
            .env("SOURCE_DATE_EPOCH", &source_date()?)
            .read_quietly();
        let documents = described.and_then(|_| {
            let read =
                |(dir, package)| Ok((package, document(&root().join(dir).join(format!("{name}.json")))?));
            PACKAGES.into_iter().map(read).collect()
        });
        // The tool writes one beside every package of the workspace, whether it comes to its end or not.
        for package in members()? {
            let part = package.join(format!("{name}.json"));
            if part.exists() {
                fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
            }
        }
        documents.map(Self)
    }

    /// That of a package.
    pub(super) fn of(&self, package: &str) -> anyhow::Result<&[u8]> {
        let found = self.0.iter().find(|(name, _)| *name == package);
        found.map(|(_, text)| &**text).with_context(|| format!("there is no SBOM of {package}"))
    }

    /// Writes `NAME-VERSION-x86_64-SYSTEM.cdx.json` for each package into this directory.
    pub(super) fn write(&self, dist: &Path, version: &str, system: &str) -> anyhow::Result<Vec<PathBuf>> {
        let write = |(package, text): &(&str, Vec<u8>)| {
            let path = dist.join(format!("{package}-{version}-x86_64-{system}.cdx.json"));
            files::write(&path, 0o644, text)?;
            Ok(path)
        };
        self.0.iter().map(write).collect()
    }
}

/// What the tool wrote, without what is another one at every call or on every machine.
fn document(part: &Path) -> anyhow::Result<Vec<u8>> {
    let text = fs::read_to_string(part).with_context(|| format!("cannot read {}", part.display()))?;
    let mut document: Value = serde_json::from_str(&text).context("the SBOM is no JSON")?;
    document.as_object_mut().context("the SBOM is no object")?.remove("serialNumber");
    let components = document["components"].as_array().map_or(0, Vec::len);
    ensure!(components > 50, "{} names {components} components: some are missing", part.display());
    let text = serde_json::to_string_pretty(&document)?.replace(&root().display().to_string(), "/umsid");
    Ok(text.into_bytes())
}

/// The directories of the workspace's packages.
fn members() -> anyhow::Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let text = Program::new(Path::new(&cargo))
        .in_dir(&root())
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .read_quietly()?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata printed something else")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let manifests = packages.iter().filter_map(|package| package["manifest_path"].as_str());
    Ok(manifests.filter_map(|path| Some(Path::new(path).parent()?.to_owned())).collect())
}
