//! Tables as `umsadmin-cli` prints them: space-padded columns, or separated by what was asked for.

/// How tables are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) separator: Option<String>,
    pub(super) header: bool,
}

/// Columns with their heading; numbers and dates stand to the right.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
pub(super) enum Column {
    Left(String),
    Right(String),
}

impl Column {
    fn heading(&self) -> &str {
        match self {
            Self::Left(heading) | Self::Right(heading) => heading,
        }
    }
}

impl Table {
    pub(super) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn print(&self, style: &Style) -> String {
        let heading: Vec<String> = self.columns.iter().map(|column| column.heading().to_owned()).collect();
        let rows = style.header.then_some(&heading).into_iter().chain(&self.rows);
        match &style.separator {
            Some(separator) => rows.map(|row| row.join(separator) + "\n").collect(),
            None => rows.map(|row| self.padded(row)).collect(),
        }
    }

    fn padded(&self, row: &[String]) -> String {
        let cells = self.columns.iter().enumerate().zip(row).map(|((at, column), cell)| {
            let others = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            let width = others.chain([column.heading().chars().count()]).max().unwrap_or_default();
            match column {
                Column::Left(_) => format!("{cell:<width$}"),
                Column::Right(_) => format!("{cell:>width$}"),
            }
        });
        cells.collect::<Vec<_>>().join(" ").trim_end().to_owned() + "\n"
    }
}
