//! What the programs are made of, as CycloneDX: one document each.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{release, source_date};
use crate::files;
use crate::program::{Program, root};

/// Makes `NAME.cdx.json` for agent and coordinator in this directory.
pub(crate) fn make(dist: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let tool = release::tool("cargo-cyclonedx", "0.5.9")?;
    let name = "umsid.sbom.part";
    Program::new(&tool)
        .in_dir(&root())
        .args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--target", "all", "--quiet"])
        .args(["--override-filename", name])
        .env("SOURCE_DATE_EPOCH", &source_date()?)
        .read_quietly()?;
    let made = [("agent", "umsid-agent"), ("coordinator", "umsid")].map(|(dir, package)| {
        let part = root().join(dir).join(format!("{name}.json"));
        let text = fs::read_to_string(&part).with_context(|| format!("cannot read {}", part.display()))?;
        let mut document: Value = serde_json::from_str(&text).context("the SBOM is no JSON")?;
        // A number that is another one every time says nothing; where this was built is nobody's business.
        document.as_object_mut().context("the SBOM is no object")?.remove("serialNumber");
        let text = serde_json::to_string_pretty(&document)?.replace(&root().display().to_string(), "/umsid");
        let components = document["components"].as_array().map_or(0, Vec::len);
        ensure!(components > 50, "the SBOM of {package} names {components} components");
        let path = dist.join(format!("{package}.cdx.json"));
        files::write(&path, 0o644, text.as_bytes())?;
        Ok(path)
    });
    // The tool writes one beside every package of the workspace.
    let left = Program::new(Path::new("git")).in_dir(&root()).args([
        "ls-files",
        "--others",
        "--",
        &format!("*{name}.json"),
    ]);
    for part in left.read_quietly()?.lines() {
        fs::remove_file(root().join(part))?;
    }
    let [agent, coordinator] = made;
    let made: anyhow::Result<[PathBuf; 2]> = Ok([agent?, coordinator?]);
    made
}
