"""Headings and sections."""

from __future__ import annotations

from textwrap import dedent

from prune2vec.data.sections import Section, markdown_headings, plain_headings, rst_headings, split_sections


def test_markdown() -> None:
    text = dedent("""\
        ---
        title: front matter
        ---
        lost text

        # The *guide* ##
        Read [this](http://x.y) and `that`.

        ```sh
        # no heading
        ```
        ## Install

        Some <b>text</b>.

        Under
        -----
        | a |
        |---|
        more

        # Next
        end""")
    assert split_sections(text, markdown_headings) == [
        Section("The *guide*", "", "Read this and that."),
        Section("Install", "The *guide*", "Some text ."),
        Section("Under", "The *guide*", "| a | |---| more"),
        Section("Next", "", "end"),
    ]


def test_markdown_rules_lists_and_paragraphs_are_no_headings() -> None:
    text = "- item\n---\n\nlast line of\na paragraph\n===\n\n| table |\n-----\n\ntext\n\n---\n"
    assert markdown_headings(text.split("\n")) == []


def test_rst_levels_follow_first_appearance() -> None:
    text = dedent("""\
        =====
        Title
        =====

        Intro to :ref:`it <there>`.

        Part
        ====
        one

        Sub
        ---
        .. note:: gone
        two

        Other
        =====
        three

        too short
        ---
        """)
    assert split_sections(text, rst_headings) == [
        Section("Title", "", "Intro to it."),
        Section("Part", "Title", "one"),
        Section("Sub", "Part", "two"),
        Section("Other", "Title", "three too short"),
    ]


def test_plain_text_headings_stand_alone() -> None:
    text = "First things\n\nA sentence here.\nAnd more.\n\nNot a heading.\n\n2. Second things\n\nText\nin two lines.\n"
    assert split_sections(text, plain_headings) == [
        Section("First things", "", "A sentence here. And more. Not a heading."),
        Section("2. Second things", "", "Text in two lines."),
    ]
    assert [heading.title for heading in plain_headings(["Under", "=====", "", "Alone", "", "x"])] == ["Under"]
