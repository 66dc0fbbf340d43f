"""Tables of cluster labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_sources.recordings.cluster_labels import read_cluster_labels
from stream_sources.recordings.labels import label_text

RIGHT = {0: "good", 1: "mua", 2: "good", 3: "noise"}

ROWS = "cluster_id\tgroup\n0\tgood\n1\tmua\n2\tgood\n3\tnoise\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cluster_group.tsv", ROWS),
        ("cluster_group.tsv", ROWS.replace("\n", "\r\n")),
        ("cluster_group.tsv", ROWS.replace("\t", ",")),
        ("cluster_group.csv", ROWS.replace("\t", ";")),
        ("cluster_groups.csv", ROWS.replace("\t", ",")),
        ("cluster_group.tsv", ROWS.replace("\n", "\t\n").replace("group\t", "group\tnote")),
        ("cluster_group.tsv", ROWS.replace("\n", " \n")),
        ("cluster_group.tsv", "\n" + ROWS + "\n\n"),
        ("cluster_group.tsv", ROWS.replace("\tgood", ".0\t good").replace("\tmua", ".0\tmua")),
        ("cluster_group.tsv", ROWS.replace("good", '"good"')),
        ("cluster_group.tsv", ROWS.partition("\n")[2]),
        ("cluster_KSLabel.tsv", ROWS.replace("group", "KSLabel")),
        ("cluster_info.tsv", "id\tdepth\tgroup\n0\t1.5\tgood\n1\t\tmua\n2\t3\tgood\n3\t4\tnoise\n"),
        (
            "cluster_info.tsv",
            "n\tGroup\tCluster_ID\n9\tgood\t0\n9\tmua\t1\n9\tgood\t2\n9\tnoise\t3",
        ),
    ],
)
def test_the_usual_shapes_of_a_table_are_read(tmp_path: Path, name: str, text: str) -> None:
    """Commas, third columns, blanks, float ids, quotes and line ends change no label."""
    (tmp_path / name).write_bytes(text.encode())
    assert read_cluster_labels(tmp_path) == (RIGHT, (), 0)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path, encoding: str) -> None:
    """Spreadsheets write one."""
    (tmp_path / "cluster_group.tsv").write_text(ROWS, encoding)
    assert read_cluster_labels(tmp_path).label_of == RIGHT


def test_a_persons_label_counts_where_there_is_one(tmp_path: Path) -> None:
    """Unsorted, empty and missing groups leave the sorter's label; the export counts last."""
    (tmp_path / "cluster_group.tsv").write_text(
        "cluster_id\tgroup\n0\tnoise\n1\tunsorted\n2\t\n5\tunsorted\n6\tnan\n"
    )
    (tmp_path / "cluster_KSLabel.tsv").write_text(
        "cluster_id\tKSLabel\n0\tgood\n1\tmua\n2\tgood\n3\tgood\n6\tmua\n"
    )
    (tmp_path / "cluster_info.tsv").write_text("cluster_id\tgroup\n4\tmua\n")
    labels = read_cluster_labels(tmp_path)
    assert labels == (
        {0: "noise", 1: "mua", 2: "good", 3: "good", 4: "mua", 5: "unsorted", 6: "mua"}, (), 0
    )  # fmt: skip


def test_contradictions_are_counted(tmp_path: Path) -> None:
    """Phy's own table counts before its export, and the last row of a cluster."""
    (tmp_path / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n0\tmua\n1\tgood\n")
    (tmp_path / "cluster_info.tsv").write_text("cluster_id\tgroup\n0\tmua\n1\tnoise\n")
    assert read_cluster_labels(tmp_path) == ({0: "mua", 1: "good"}, (), 2)


def test_rows_that_cannot_be_read_are_counted_in_one_note(tmp_path: Path) -> None:
    """The others are read, even after an unclosed quotation mark."""
    (tmp_path / "cluster_group.csv").write_text(
        'cluster_id,group,note\nzero,good\n1,mua,"x\n2,good\n3,noise,\n4,5,good,b\n0.5,mua\n'
    )
    labels = read_cluster_labels(tmp_path)
    assert labels.label_of == {1: "mua", 2: "good", 3: "noise"}
    assert labels.notes() == (
        "3 of the rows of cluster labels cannot be read and are left out: "
        "cluster_group.csv line 2, cluster_group.csv line 6, cluster_group.csv line 7",
    )


@pytest.mark.parametrize(
    "row", ["1,0,good", "1,0,", "1,0", "-1,5,good,x", "1,good,0,5"], ids=lambda row: row
)
def test_decimal_commas_between_commas_are_refused(tmp_path: Path, row: str) -> None:
    """The decimals of an id or of another column are never read as the label."""
    (tmp_path / "cluster_group.csv").write_text(f"cluster_id,group,note\n2,mua\n{row}\n")
    assert read_cluster_labels(tmp_path) == ({2: "mua"}, ("cluster_group.csv line 3",), 0)


def test_a_label_file_with_other_columns_is_counted(tmp_path: Path) -> None:
    """No column of it is taken for the labels."""
    (tmp_path / "cluster_group.tsv").write_text("unit\tx\tlabel\n0\t1\tgood\n")
    assert read_cluster_labels(tmp_path).unread == (
        "cluster_group.tsv line 1",
        "cluster_group.tsv line 2",
    )


def test_other_tables_are_left_alone(tmp_path: Path) -> None:
    """A table without both cluster ids and labels is ignored, and no fault."""
    (tmp_path / "events.csv").write_text("time,group\n0.5,good\n")
    (tmp_path / "cluster_Amplitude.tsv").write_text("cluster_id\tAmplitude\n0\t12.5\n")
    assert read_cluster_labels(tmp_path) == ({}, (), 0)


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", "None", "NaN", "<NA>", "null"])
def test_a_null_is_no_label(value: object) -> None:
    """However NumPy, pandas, Python or JSON spell it."""
    assert not label_text(value)
