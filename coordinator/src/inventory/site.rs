//! What people say of a site: how many of its servers may be away at a time, when its turn is, and at what hours.

use std::num::NonZeroU16;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize};

use crate::window::Window;

/// A site of a cluster, `[clusters.CLUSTER.sites.SITE]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// How many of its servers may be disturbed at a time; `None`: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_down: Option<NonZeroU16>,
    /// Its turn: the site with the lowest number comes first, those without come last, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// When its servers may be disturbed; none: at any time. In the file one text, or a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_more")]
    pub window: Vec<Window>,
    /// Whose clock windows are read off that name none, as `Europe/Berlin`; `None`: that of the coordinator's host.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "timezone")]
    pub time_zone: Option<String>,
    /// How long a server of it is disturbed, restore and restart together, whatever is on record.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional"
    )]
    pub takes: Option<Duration>,
}

impl Site {
    /// How many of its servers may be disturbed at a time.
    pub fn max_down(&self) -> usize {
        self.max_down.map_or(1, |most| most.get().into())
    }

    /// When its servers may be disturbed, each window with its clock where one is named; none: at any time.
    pub fn windows(&self) -> Vec<Window> {
        let zone = self.time_zone.as_deref().and_then(|name| TimeZone::get(name).ok());
        self.window.iter().map(|window| window.clone().or_by(zone.as_ref())).collect()
    }

    /// The key at fault and what is wrong with it.
    pub(super) fn complaint(&self) -> Option<(&'static str, String)> {
        let unknown = self.time_zone.as_ref().filter(|name| TimeZone::get(name).is_err());
        unknown.map(|name| ("time_zone", format!("no time zone `{name}` is known here")))
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Window>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        More(Vec<String>),
    }
    let texts = match Texts::deserialize(from) {
        Ok(Texts::One(text)) => vec![text],
        Ok(Texts::More(texts)) => texts,
        Err(_) => return Err(serde::de::Error::custom("a window is a text, or several in a list")),
    };
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
