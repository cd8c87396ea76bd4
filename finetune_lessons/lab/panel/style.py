"""The style sheet of panels. Colours come from JupyterLab's theme, with neutral ones where there is none."""

STYLE = """<style>
.ftl-panel { --ftl-text: var(--jp-ui-font-color1, currentColor); --ftl-soft: var(--jp-ui-font-color2, currentColor);
  --ftl-line: var(--jp-border-color2, #8886); --ftl-fill: var(--jp-layout-color2, #8881); --ftl-strong: #1565c0;
  border: 1px solid var(--ftl-line); border-radius: 8px; padding: 12px; max-width: 1100px; color: var(--ftl-text);
  overflow: hidden; box-sizing: border-box; container-type: inline-size; }
.ftl-panel .widget-html-content { line-height: 1.45; color: var(--ftl-text); white-space: normal; }
.ftl-panel .widget-label { color: var(--ftl-text); }
.ftl-panel .widget-html, .ftl-panel .widget-html-content { min-width: 0; height: auto; }
.ftl-panel .widget-box { overflow: visible; margin: 0; }
.ftl-panel .ftl-sides.ftl-sides { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0 24px; }
@container (min-width: 720px) {
  .ftl-panel .ftl-sides.ftl-sides { grid-template-columns: minmax(290px, 3fr) minmax(0, 7fr); }
}
.ftl-panel .ftl-knobs.ftl-knobs { display: flex; margin-top: 4px; flex-flow: row wrap; gap: 2px 24px; }
.ftl-knob { flex: 1 1 250px; min-width: 0; max-width: 520px; overflow: visible; }
.ftl-control { align-items: center; overflow: visible; }
.ftl-control > * { margin-left: 0; }
.ftl-control .widget-label { width: 108px; min-width: 108px; text-align: left; }
.ftl-control .widget-text { flex: 0 0 auto; width: 188px; }
.ftl-control .widget-dropdown { flex: 1 1 auto; width: auto; max-width: 420px; }
.ftl-control .widget-slider { flex: 1 1 70px; width: auto; min-width: 70px; max-width: 240px; }
.ftl-control .widget-checkbox { width: auto; }
.ftl-control .widget-label-basic { color: var(--ftl-text); }
/* A slider's handle has no name for screen readers: it stays for the mouse, the field beside it has the name. */
.ftl-control .noUi-handle { visibility: hidden; }
.ftl-control .noUi-touch-area { visibility: visible; box-sizing: border-box; border-radius: 50%; cursor: grab;
  background: var(--ftl-strong); border: 2px solid var(--jp-layout-color0, #fff); }
.ftl-control .noUi-connect { background: var(--ftl-strong); }
.ftl-note { color: var(--ftl-soft); font-size: 12px; line-height: 1.3; margin: -3px 0 3px; }
.ftl-said { font-size: 12px; border-left: 3px solid #e69f00; padding-left: 6px; margin-bottom: 3px; }
.ftl-lost { display: none; border-left: 4px solid #e69f00; padding: 4px 10px; font-weight: 600;
  background: var(--ftl-fill); }
/* The kernel is gone: what it drew last stays, what would need it does not. */
.ftl-panel.jupyter-widgets-disconnected .ftl-lost { display: block; }
.ftl-panel.jupyter-widgets-disconnected .ftl-live.ftl-live, .ftl-panel.jupyter-widgets-disconnected .ftl-row,
.ftl-panel.jupyter-widgets-disconnected .ftl-knobs { display: none !important; }
.ftl-panel.jupyter-widgets-disconnected .ftl-sides.ftl-sides { display: block; }
.ftl-panel.jupyter-widgets-disconnected::before, .ftl-panel .jupyter-widgets-disconnected::before {
  content: none !important; display: none !important; }
.ftl-note code { color: var(--ftl-text); background: var(--ftl-fill); padding: 0 4px; border-radius: 3px;
  font-size: 12px; }
.ftl-row { display: flex; flex-flow: row wrap; align-items: center; gap: 4px 8px; margin-top: 6px;
  overflow: visible; }
.ftl-row > * { margin: 0; flex: 0 0 auto; }
.ftl-row .widget-text { width: 260px; max-width: 100%; }
.ftl-row .ftl-guess { flex: 1 1 300px; max-width: 900px; }
.ftl-row .widget-dropdown { width: auto; max-width: 100%; }
.ftl-row .widget-dropdown select { width: auto; }
.ftl-row .widget-label { width: auto; min-width: 0; }
.ftl-row button.jupyter-button { width: auto; min-width: 58px; padding: 0 10px; color: var(--ftl-text);
  border-radius: 4px;
  background: var(--ftl-fill); border: 1px solid var(--ftl-line); line-height: 26px; height: 28px; box-shadow: none; }
.ftl-row button.jupyter-button.ftl-primary:enabled { background: var(--ftl-strong);
  border-color: var(--ftl-strong); color: #fff; }
.ftl-row button.jupyter-button:disabled { opacity: .5; }
.ftl-row button.jupyter-button:focus-visible, .ftl-panel select:focus-visible, .ftl-panel input:focus-visible,
.ftl-panel textarea:focus-visible, .ftl-scroll:focus-visible, .ftl-asked:focus-visible {
  outline: 2px solid var(--ftl-strong); outline-offset: 1px; }
.ftl-asked { min-height: 3em; max-height: 16em; overflow: auto; padding: 8px 12px; font-size: 16px; line-height: 1.5;
  white-space: pre-wrap; background: var(--ftl-fill); border-left: 4px solid var(--ftl-strong); }
.ftl-status, .ftl-failed { margin-top: 4px; }
.ftl-status { font-weight: 600; }
.ftl-failed { border-left: 4px solid #c62828; padding: 4px 10px; background: var(--ftl-fill); font-weight: 400; }
.ftl-stats { display: flex; flex-flow: row wrap; gap: 4px 22px; min-height: 40px; }
.ftl-stats div { display: flex; flex-flow: column; font-variant-numeric: tabular-nums; }
.ftl-stats span { color: var(--ftl-soft); font-size: 11px; }
.ftl-stats b { font-weight: 600; }
.ftl-panel progress { appearance: none; border: 0; width: 100%; height: 6px; display: block; margin: 4px 0;
  background: var(--ftl-fill); border-radius: 3px; overflow: hidden; }
.ftl-panel progress::-webkit-progress-bar { background: var(--ftl-fill); }
.ftl-panel progress::-webkit-progress-value { background: var(--ftl-strong); }
.ftl-panel progress::-moz-progress-bar { background: var(--ftl-strong); }
.ftl-plot { container-type: inline-size; width: 100%; }
.ftl-charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 6px; }
.ftl-main { grid-column: 1 / -1; }
@container (min-width: 768px) { .ftl-main { grid-column: span 2; grid-row: span 2; } }
.ftl-chart { width: 100%; height: auto; max-width: 760px; font: 11px var(--jp-ui-font-family, sans-serif);
  fill: var(--ftl-text); }
.ftl-chart .ftl-title { font-size: 13px; font-weight: 600; }
.ftl-chart .ftl-tick { fill: var(--ftl-soft); }
.ftl-chart .ftl-label, .ftl-chart .ftl-high { font-size: 12px; }
.ftl-chart .ftl-zero { stroke: var(--ftl-text); stroke-width: 1; }
.ftl-chart .ftl-grid { stroke: var(--ftl-line); stroke-width: 1; }
.ftl-swatch { vertical-align: middle; }
.ftl-scroll { overflow-x: auto; max-width: 100%; }
.ftl-table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.ftl-table th, .ftl-table td { padding: 3px 10px; text-align: right; border-bottom: 1px solid var(--ftl-line);
  white-space: nowrap; color: var(--ftl-text); }
.ftl-table th { font-weight: 600; }
.ftl-table th:first-child { text-align: left; }
.ftl-table tr.ftl-picked { background: var(--ftl-fill); }
.ftl-code textarea { font-family: var(--jp-code-font-family, monospace); font-size: 13px; line-height: 1.4; }
.ftl-trace { font: 12px/1.4 var(--jp-code-font-family, monospace); overflow: auto; max-height: 300px; margin: 0;
  padding: 8px;
  background: var(--ftl-fill); color: var(--ftl-text); }
</style>"""
