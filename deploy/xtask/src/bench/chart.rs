//! The picture: how long a sync takes, against the number of servers.

use anyhow::anyhow;
use plotters::prelude::*;

use super::samples::{Samples, find};

const SIZE: (u32, u32) = (720, 420);

/// The lines, with their colours and what stands beside them.
const LINES: [(&str, &str, RGBColor); 3] = [
    ("Ansible", "Ansible, tuned", RGBColor(196, 78, 44)),
    ("umsid", "umsid", RGBColor(28, 99, 156)),
    ("umsid without the UMS", "of it umsid itself", RGBColor(122, 168, 204)),
];

/// An SVG; empty axes where nothing was measured.
pub(super) fn draw(samples: &[Samples]) -> anyhow::Result<String> {
    let points = |who: &str| -> Vec<(f64, f64)> {
        let at = |servers: u32| {
            let found = find(samples, &format!("sync of {servers}"), who)?;
            Some((f64::from(servers), found.median()))
        };
        [3, 6, 20, 50].into_iter().filter_map(at).collect()
    };
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| anyhow!("cannot draw: {error}");
        root.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("A sync, the UMS taking no time", ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..52.0_f64, (0.01..400.0_f64).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("servers")
            .y_desc("seconds")
            .x_labels(11)
            .x_label_formatter(&|servers| format!("{servers:.0}"))
            .y_label_formatter(&|seconds| format!("{seconds}"))
            .draw()
            .map_err(failed)?;
        for (who, called, colour) in LINES {
            let line = points(who);
            chart
                .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))
                .map_err(failed)?
                .label(called)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart
                .draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))
                .map_err(failed)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(RGBColor(200, 200, 200))
            .draw()
            .map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(text)
}
