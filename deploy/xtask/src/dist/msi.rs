//! `.msi`, by `wixl`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use uuid::Uuid;

use super::{MAINTAINER, Package, lay_out, source_date};
use crate::files;
use crate::program::Program;

/// What all versions of a product have in common, by which a newer one finds an older one. Never changed.
const UPGRADE_CODES: [(&str, &str); 2] = [
    ("umsid-agent", "8F0C8D0B-6C0E-4E0B-9A55-5B1D0F7A3E61"),
    ("umsid", "C6A0D5C4-3A19-4C1E-8C35-2E4D7C9B1F72"),
];

/// Makes the package in this directory. What it installs is in `C:\Program Files\umsid`, which is added to the `PATH`.
pub(super) fn make(package: &Package, version: &str, dist: &Path) -> anyhow::Result<PathBuf> {
    let dir = dist.join("msi").join(package.name);
    if dir.exists() {
        fs::remove_dir_all(&dir).context("cannot remove what an earlier packaging left")?;
    }
    let tree = dir.join("tree");
    lay_out(package, &tree)?;
    let wxs = dir.join(format!("{}.wxs", package.name));
    files::write(&wxs, 0o644, source(package, version)?.as_bytes())?;
    let made = dist.join(format!("{}-{version}-x64.msi", package.name));
    Program::new(Path::new("wixl"))
        // It finds files by names in its own directory only.
        .in_dir(&tree)
        .args(["--arch", "x64", "--output"])
        .args([&made, &wxs])
        .env("SOURCE_DATE_EPOCH", &source_date()?)
        .read_quietly()?;
    let program = package.files.iter().position(|file| file.path.ends_with(".exe"));
    on_the_path(&made, &dir, program.context("there is no program in the package")?)?;
    fs::remove_dir_all(&dir)?;
    Ok(made)
}

/// Adds the directory to the system's `PATH` with a program of the package, and takes it away with it: `wixl` has no element for
/// that.
fn on_the_path(made: &Path, dir: &Path, program: usize) -> anyhow::Result<()> {
    let table = dir.join("Environment.idt");
    let rows = format!(
        "Environment\tName\tValue\tComponent_\r\ns72\tl255\tL255\ts72\r\nEnvironment\tEnvironment\r\n\
         Path\t=-*PATH\t[~];[INSTALLDIR]\tC{program}\r\n"
    );
    files::write(&table, 0o644, rows.as_bytes())?;
    let when = |action: &str, after: u32| {
        format!(
            "INSERT INTO `InstallExecuteSequence` (`Action`, `Condition`, `Sequence`) VALUES ('{action}', '', {after})"
        )
    };
    // Where the documentation of Windows Installer puts them.
    Program::new(Path::new("msibuild"))
        .args([made])
        .args([Path::new("-i"), &table])
        .args(["-q", &when("RemoveEnvironmentStrings", 3300)])
        .args(["-q", &when("WriteEnvironmentStrings", 5200)])
        .read_quietly()
        .map(drop)
}

/// An identifier that is the same for the same text.
fn guid(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).hyphenated().to_string().to_uppercase()
}

fn source(package: &Package, version: &str) -> anyhow::Result<String> {
    let name = package.name;
    let code = UPGRADE_CODES.iter().find(|(product, _)| *product == name);
    let (_, upgrade) = code.with_context(|| format!("{name} has no upgrade code"))?;
    // Windows compares three numbers.
    let number = version.replace('+', ".");
    let (own, summary) = (guid(&format!("{name} {version}")), package.summary);
    let mut out = String::new();
    write!(
        out,
        r#"<?xml version="1.0" encoding="utf-8"?>
<Wix xmlns="http://schemas.microsoft.com/wix/2006/wi">
  <Product Id="{own}" Name="{name}" Language="1033" Version="{number}" Manufacturer="{}" UpgradeCode="{upgrade}">
    <Package InstallerVersion="500" Compressed="yes" InstallScope="perMachine" Description="{summary}"/>
    <Media Id="1" Cabinet="umsid.cab" EmbedCab="yes"/>
    <Upgrade Id="{upgrade}">
      <UpgradeVersion Minimum="0.0.0" Maximum="{number}" IncludeMaximum="no" Property="OLDER"/>
      <UpgradeVersion Minimum="{number}" IncludeMinimum="no" OnlyDetect="yes" Property="NEWER"/>
    </Upgrade>
    <Condition Message="A newer version of {name} is installed.">NOT NEWER</Condition>
    <Directory Id="TARGETDIR" Name="SourceDir">
      <Directory Id="ProgramFiles64Folder">
        <Directory Id="INSTALLDIR" Name="umsid">
"#,
        MAINTAINER.split(" <").next().unwrap_or(MAINTAINER)
    )?;
    let mut components = Vec::new();
    for (index, file) in package.files.iter().filter(|file| !file.path.contains('/')).enumerate() {
        component(&mut out, name, index, &file.path)?;
        components.push(format!("C{index}"));
    }
    writeln!(
        out,
        r#"        </Directory>
      </Directory>
    </Directory>
    <Feature Id="Main" Level="1">"#
    )?;
    for component in components {
        writeln!(out, r#"      <ComponentRef Id="{component}"/>"#)?;
    }
    writeln!(out, "    </Feature>")?;
    let program = package.files.iter().position(|file| file.path == "umsid-agent.exe");
    match program {
        Some(index) => service(&mut out, index)?,
        None => writeln!(
            out,
            r#"    <InstallExecuteSequence>
      <RemoveExistingProducts After="InstallInitialize"/>
    </InstallExecuteSequence>"#
        )?,
    }
    writeln!(out, "  </Product>\n</Wix>")?;
    Ok(out)
}

fn component(out: &mut String, name: &str, index: usize, path: &str) -> anyhow::Result<()> {
    let guid = guid(&format!("{name} {path}"));
    writeln!(
        out,
        r#"          <Component Id="C{index}" Guid="{guid}" Win64="yes">
            <File Id="F{index}" Name="{path}" Source="{path}" KeyPath="yes"/>
          </Component>"#
    )?;
    Ok(())
}

/// The program makes itself a service, and none of itself: with what to do after a crash, its place in the event log and its
/// directory, of which the installer's own tables know nothing. What was stopped for an upgrade is started again.
fn service(out: &mut String, program: usize) -> anyhow::Result<()> {
    for (id, arguments, fails) in [
        ("ServiceInstall", "service install", "check"),
        // Not enrolled yet, it does not start; and whoever has stopped it for good wants it so.
        ("ServiceStart", "service start", "ignore"),
        ("ServiceStop", "service stop", "ignore"),
        ("ServiceUninstall", "service uninstall", "ignore"),
    ] {
        writeln!(
            out,
            r#"    <CustomAction Id="{id}" FileKey="F{program}" ExeCommand="{arguments}" Execute="deferred" Impersonate="no" Return="{fails}"/>"#
        )?;
    }
    writeln!(
        out,
        r#"    <InstallExecuteSequence>
      <RemoveExistingProducts After="InstallInitialize"/>
      <Custom Action="ServiceStop" Before="RemoveFiles">REMOVE="ALL" AND UPGRADINGPRODUCTCODE</Custom>
      <Custom Action="ServiceUninstall" Before="RemoveFiles">REMOVE="ALL" AND NOT UPGRADINGPRODUCTCODE</Custom>
      <Custom Action="ServiceInstall" After="InstallFiles">NOT REMOVE</Custom>
      <Custom Action="ServiceStart" After="ServiceInstall">NOT REMOVE</Custom>
    </InstallExecuteSequence>"#
    )?;
    Ok(())
}
