"""Run folders to tables, figures and one self-contained page; reads files, loads no model."""
