"""Tables over seeds: mean ± standard deviation (of the sample), as Markdown and as CSV.

The runs come as a frame, one row a run; runs of one ``name`` differ only in their seed.
"""

from collections.abc import Mapping

import pandas as pd


def mean_sd(values: pd.Series, digits: int = 1) -> str:
    """Mean ± standard deviation, of one value without the latter, as text; what is missing does not count."""
    values = values.dropna()
    if values.empty:
        return '–'
    spread = f' ± {values.std():.{digits}f}' if len(values) > 1 else ''
    return f'{values.mean():.{digits}f}{spread}'


def over_seeds(runs: pd.DataFrame, columns: Mapping[str, str], label: str = 'encoder') -> pd.DataFrame:
    """One row a name: mean ± standard deviation of some columns, under their headings, and the number of seeds."""
    groups = runs.groupby('name', sort=False)
    table = groups[list(columns)].agg(mean_sd).rename(columns=columns)
    table['seeds'] = groups.size().astype(str)
    return table.rename_axis(label).reset_index()


def as_markdown(table: pd.DataFrame) -> str:
    """A table of text."""
    rows = [list(table.columns), ['---'] * len(table.columns), *table.to_numpy().tolist()]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def as_csv(runs: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """A line for each name and column: mean, standard deviation (empty with one seed), number of seeds, the values."""
    values = runs.set_index('name')[list(columns)].stack().groupby(level=[0, 1], sort=False)
    table = values.agg(['mean', 'std', 'count', lambda group: ' '.join(f'{value:.4f}' for value in group)])
    table.columns = pd.Index(['mean', 'sd', 'seeds', 'values'])
    return table.rename_axis(['encoder', 'metric']).to_csv(float_format='%.4f')


def as_rows(runs: pd.DataFrame) -> dict[str, list[dict]]:
    """Content of the ``results.json`` that the report reads: for each name the values of all seeds."""
    groups = runs.set_index('name').groupby(level=0, sort=False)
    return dict(rows=[dict(name=name, **group.to_dict('list')) for name, group in groups])
