"""The look of one generated page: colours, type, spacing and the texts of one language."""

import random
from dataclasses import dataclass

# Per language: short labels of controls, then nouns and connecting words for running text.
LABELS = {
    "en": "Save|Cancel|OK|Open|Delete|Edit|New|Share|Apply|Close|Search|Next|Back|Download|Upload|"
    "Copy|Paste|Undo|Rename|Settings|Help|Sign in|Sign out|View all|Add to cart|Reply|Forward|"
    "Send|Print|Export|Import|Refresh|Filter|Sort|Select all|Preferences|Details|More|Continue|"
    "Try again|Install|Update now|Learn more|Dismiss|Archive|Preview|Insert|Format|Tools|Window",
    "de": "Speichern|Abbrechen|Öffnen|Löschen|Bearbeiten|Neu|Teilen|Übernehmen|Schließen|Suchen|"
    "Weiter|Zurück|Herunterladen|Kopieren|Einfügen|Umbenennen|Einstellungen|Hilfe|Anmelden|"
    "Antworten|Senden|Drucken|Aktualisieren|Filtern|Alles auswählen|Mehr|Ansicht|Datei|Fenster",
    "fr": "Enregistrer|Annuler|Ouvrir|Supprimer|Modifier|Nouveau|Partager|Appliquer|Fermer|"
    "Rechercher|Suivant|Retour|Télécharger|Copier|Coller|Renommer|Paramètres|Aide|Connexion|"
    "Répondre|Envoyer|Imprimer|Actualiser|Trier|Tout sélectionner|Plus|Affichage|Fichier|Outils",
    "es": "Guardar|Cancelar|Abrir|Eliminar|Editar|Nuevo|Compartir|Aplicar|Cerrar|Buscar|Siguiente|"
    "Atrás|Descargar|Copiar|Pegar|Renombrar|Ajustes|Ayuda|Entrar|Responder|Enviar|Imprimir|"
    "Actualizar|Filtrar|Seleccionar todo|Más|Ver|Archivo|Ventana|Insertar|Formato",
    "ru": "Сохранить|Отмена|Открыть|Удалить|Изменить|Создать|Поделиться|Применить|Закрыть|Найти|"
    "Далее|Назад|Скачать|Копировать|Вставить|Переименовать|Настройки|Справка|Войти|Ответить|"
    "Отправить|Печать|Обновить|Фильтр|Выделить всё|Ещё|Вид|Файл|Окно|Правка",
    "el": "Αποθήκευση|Άκυρο|Άνοιγμα|Διαγραφή|Επεξεργασία|Νέο|Κοινή χρήση|Εφαρμογή|Κλείσιμο|"
    "Αναζήτηση|Επόμενο|Πίσω|Λήψη|Αντιγραφή|Επικόλληση|Ρυθμίσεις|Βοήθεια|Σύνδεση|Απάντηση|"
    "Αποστολή|Εκτύπωση|Ανανέωση|Φίλτρο|Περισσότερα|Προβολή|Αρχείο|Παράθυρο",
    "zh": "保存|取消|打开|删除|编辑|新建|分享|应用|关闭|搜索|下一步|返回|下载|上传|复制|粘贴|撤销|"
    "重命名|设置|帮助|登录|退出|回复|发送|打印|导出|刷新|筛选|全选|更多|视图|文件|窗口",
    "ja": "保存|キャンセル|開く|削除|編集|新規|共有|適用|閉じる|検索|次へ|戻る|ダウンロード|コピー|"
    "貼り付け|元に戻す|名前の変更|設定|ヘルプ|ログイン|返信|送信|印刷|更新|並べ替え|すべて選択|表示",
}
WORDS = {
    "en": "river garden window engine letter market paper winter signal copper harbor forest "
    "planet mirror budget report meeting travel kitchen music project station bridge summer coffee "
    "library camera island the a of with under across and quiet early large bright open small "
    "moves keeps finds turns holds follows reaches seldom often today northern several",
    "de": "Fluss Garten Fenster Motor Brief Markt Papier Winter Signal Hafen Wald Spiegel Bericht "
    "Reise Küche Projekt Bahnhof Brücke Sommer Bücherei Insel der die ein mit unter über und leise "
    "früh groß hell klein bewegt hält findet dreht folgt erreicht selten oft heute mehrere",
    "fr": "rivière jardin fenêtre moteur lettre marché papier hiver signal port forêt miroir "
    "rapport voyage cuisine projet gare pont été café île le la un avec sous et calme tôt grand "
    "clair petit bouge garde trouve tourne suit atteint rarement souvent plusieurs",
    "es": "río jardín ventana motor carta mercado papel invierno señal puerto bosque espejo "
    "informe viaje cocina proyecto estación puente verano café isla el la un con bajo y tranquilo "
    "pronto grande claro mueve guarda encuentra gira sigue alcanza raras veces hoy varios",
    "ru": "река сад окно мотор письмо рынок бумага зима сигнал гавань лес зеркало отчёт поездка "
    "кухня проект вокзал мост лето остров и под над тихий ранний большой светлый малый движет "
    "держит находит следует часто сегодня несколько",
    "el": "ποτάμι κήπος παράθυρο μηχανή γράμμα αγορά χαρτί χειμώνας σήμα λιμάνι δάσος καθρέφτης "
    "αναφορά ταξίδι κουζίνα έργο σταθμός γέφυρα νησί και με κάτω ήσυχο νωρίς μεγάλο φωτεινό μικρό "
    "κρατά βρίσκει γυρίζει συχνά σήμερα πολλά",
    "zh": "河流 花园 窗口 引擎 信件 市场 纸张 冬天 信号 港口 森林 镜子 报告 旅行 厨房 项目 "
    "车站 桥梁 夏天 图书 岛屿 和 在 的 安静 早晨 明亮 小 移动 保持 发现 经常 今天 几个",
    "ja": "川 庭園 窓 機械 手紙 市場 紙 冬 信号 港 森 鏡 報告 旅行 台所 計画 駅 橋 "
    "夏 島 と の 静か 朝 大きい 明るい 小さい 動く 守る 見つける 今日 いくつか",
}
LANGUAGES = ("en", "de", "fr", "es", "ru", "el", "zh", "ja")
LANGUAGE_WEIGHTS = (46, 9, 8, 8, 10, 6, 8, 5)

FONTS = (
    "Liberation Sans",
    "DejaVu Sans",
    "Roboto",
    "Open Sans",
    "Lato",
    "Noto Sans",
    "Liberation Serif",
    "DejaVu Serif",
    "Noto Serif",
    "Liberation Sans Narrow",
    "Liberation Mono",
)
FONT_WEIGHTS = (20, 12, 14, 12, 10, 12, 5, 3, 3, 2, 2)
SCRIPT_FALLBACK = "'WenQuanYi Micro Hei','Noto Sans','DejaVu Sans',Symbola,sans-serif"


@dataclass(frozen=True)
class Style:
    """Lengths in CSS px before zoom; colours as CSS text."""

    language: str
    dark: bool
    background: str
    surface: str
    raised: str
    text: str
    muted: str
    border: str
    accent: str
    on_accent: str
    link: str
    font: str
    size: float
    gap: int
    radius: int
    shadow: str
    button: str  # filled, outline, soft, flat, bevel or gradient
    field: str  # boxed, underlined, filled or inset
    icons: str  # stroke, solid or unicode
    underline: bool
    capitals: bool
    scrollbar: bool
    check: int  # side of a checkbox; 0: the browser's
    zoom: float


def _hsl(hue: float, saturation: float, lightness: float) -> str:
    return f"hsl({hue:.0f} {saturation:.0f}% {lightness:.0f}%)"


def draw_style(rng: random.Random) -> Style:
    """A style in which text contrasts with what lies under it, whatever else varies."""
    dark = rng.random() < 0.35
    hue, tint = rng.randrange(360), rng.choice((0, 0, 4, 10, 30))
    accent_hue = rng.randrange(360) if rng.random() < 0.6 else rng.choice((210, 220, 140, 265))
    if dark:
        base = rng.randint(4, 20)
        steps = (base, base + rng.randint(2, 6), base + rng.randint(7, 13))
        text, muted, edge = rng.randint(82, 98), rng.randint(55, 68), base + rng.randint(12, 22)
    else:
        base = rng.randint(88, 100)
        steps = (base, min(100, base + rng.randint(-3, 8)), max(70, base - rng.randint(2, 10)))
        text, muted, edge = rng.randint(5, 25), rng.randint(35, 50), base - rng.randint(8, 28)
    strong = rng.randint(35, 48) if rng.random() < 0.7 else rng.randint(60, 72)
    saturation = rng.choice((15, 55, 75, 95))
    button_styles = ("filled", "outline", "soft", "flat", "bevel", "gradient")
    depth = rng.choice((0, 1, 2, 6, 14))
    return Style(
        language=rng.choices(LANGUAGES, LANGUAGE_WEIGHTS)[0],
        dark=dark,
        background=_hsl(hue, tint, steps[0]),
        surface=_hsl(hue, tint, steps[1]),
        raised=_hsl(hue, tint, steps[2]),
        text=_hsl(hue, min(tint, 15), text),
        muted=_hsl(hue, min(tint, 15), muted),
        border=_hsl(hue, tint, edge),
        accent=_hsl(accent_hue, saturation, strong),
        on_accent="#fff" if strong < 50 else "#111",
        link=_hsl(accent_hue, max(saturation, 55), 70 if dark else 38),
        font=rng.choices(FONTS, FONT_WEIGHTS)[0],
        size=rng.choice((11, 12, 13, 13, 14, 14, 15, 16, 18)),
        gap=rng.choice((2, 4, 6, 8, 8, 10, 14)),
        radius=rng.choice((0, 0, 2, 3, 4, 6, 8, 12, 20)),
        shadow=f"0 {depth // 2}px {depth}px rgba(0,0,0,.3)" if depth else "none",
        button=rng.choices(button_styles, (30, 20, 15, 10, 12, 13))[0],
        field=rng.choice(("boxed", "boxed", "underlined", "filled", "inset")),
        icons=rng.choice(("stroke", "stroke", "solid", "unicode")),
        underline=rng.random() < 0.4,
        capitals=rng.random() < 0.1,
        scrollbar=rng.random() < 0.5,
        check=rng.choice((0, 0, 14, 16, 18, 20)),
        zoom=rng.choice((0.8, 0.9, 1, 1, 1, 1, 1, 1.1, 1.25, 1.5)),
    )


def _button_css(style: Style) -> str:
    edge = f"1px solid {style.border}"
    return {
        "filled": f"background:{style.accent};color:{style.on_accent};border:1px solid transparent",
        "outline": f"background:transparent;color:{style.link};border:1px solid {style.link}",
        "soft": f"background:{style.raised};color:{style.text};border:1px solid transparent",
        "flat": f"background:transparent;color:{style.link};border:1px solid transparent",
        "bevel": f"background:{style.raised};color:{style.text};border:2px outset {style.border}",
        "gradient": f"background:linear-gradient({style.surface},{style.raised});"
        f"color:{style.text};border:{edge}",
    }[style.button]


def _field_css(style: Style) -> str:
    edge = f"1px solid {style.border}"
    return {
        "boxed": f"background:{style.surface};border:{edge};border-radius:{style.radius}px",
        "underlined": f"background:transparent;border:0;border-bottom:{edge}",
        "filled": f"background:{style.raised};border:0;border-radius:{style.radius}px",
        "inset": f"background:{style.surface};border:2px inset {style.border}",
    }[style.field]


def style_sheet(style: Style) -> str:
    """The CSS of a page. Nothing animates and no caret blinks, so that a screenshot is repeatable.

    Heights are percentages: viewport units are multiplied by the zoom, percentages are not.
    """
    s = style
    check = f"width:{s.check}px;height:{s.check}px;flex:none" if s.check else ""
    bar = "" if s.scrollbar else "*{scrollbar-width:none}"
    return f"""
*{{box-sizing:border-box;animation:none!important;transition:none!important;
caret-color:transparent}} {bar}
html{{zoom:{s.zoom};height:100%;color-scheme:{"dark" if s.dark else "light"}}}
body{{margin:0;height:100%;overflow:auto;background:{s.background};color:{s.text};
font:{s.size}px/1.4 '{s.font}',{SCRIPT_FALLBACK}}}
button,input,select,textarea{{font:inherit;color:inherit}}
button,.btn{{{_button_css(s)};border-radius:{s.radius}px;padding:{s.gap // 2 + 2}px {s.gap + 6}px;
cursor:pointer;white-space:nowrap;{"text-transform:uppercase;" if s.capitals else ""}
text-decoration:none;display:inline-block}}
button:hover,.btn:hover{{filter:brightness(1.15);outline:1px solid {s.accent}}}
button:disabled{{opacity:.4;cursor:default;filter:none;outline:none}}
button.bare,.bare{{background:none;border:0;color:inherit;text-transform:none}}
button.icon,a.icon{{padding:{s.gap // 2 + 1}px;line-height:0;display:inline-flex;
align-items:center;justify-content:center}}
button.icon span,a.icon span{{line-height:1}}
.main{{background:{s.accent};color:{s.on_accent};border-color:transparent}}
a{{color:{s.link};text-decoration:{"underline" if s.underline else "none"}}}
a:hover{{text-decoration:underline}}
input:not([type]),input[type=text],input[type=password],input[type=email],input[type=search],
input[type=number],input[type=date],textarea,select,.field{{{_field_css(s)};
padding:{s.gap // 2 + 2}px {s.gap // 2 + 4}px;min-width:0}}
input:focus,textarea:focus,.focused{{outline:2px solid {s.accent};outline-offset:0}}
input[type=checkbox],input[type=radio],input[type=range]{{accent-color:{s.accent};margin:2px}}
input[type=checkbox],input[type=radio]{{{check}}}
.switch{{display:inline-block;width:{2 * s.size}px;height:{s.size + 3}px;border-radius:99px;
background:{s.border};position:relative;vertical-align:middle;flex:none}}
.switch::after{{content:'';position:absolute;inset:2px auto 2px 2px;width:{s.size - 1}px;
border-radius:99px;background:#fff}}
.switch[aria-checked=true]{{background:{s.accent}}}
.switch[aria-checked=true]::after{{left:auto;right:2px}}
.row{{display:flex;align-items:center;gap:{s.gap}px}}
.col{{display:flex;flex-direction:column;gap:{s.gap}px}}
.wrap{{flex-wrap:wrap}} .grow{{flex:1;min-width:0;min-height:0}} .full{{height:100%}}
.scroll{{overflow:auto}} .clip{{overflow:hidden}} .between{{justify-content:space-between}}
.pad{{padding:{s.gap + 4}px}} .surface{{background:{s.surface}}} .raised{{background:{s.raised}}}
.card{{background:{s.surface};border:1px solid {s.border};border-radius:{s.radius}px;
box-shadow:{s.shadow};padding:{s.gap + 6}px}}
.bar{{display:flex;align-items:center;gap:{s.gap}px;padding:{s.gap // 2 + 2}px {s.gap + 4}px;
background:{s.raised};border-bottom:1px solid {s.border};flex:none}}
.side{{background:{s.surface};border-right:1px solid {s.border};overflow:auto;flex:none;
padding:{s.gap}px 0}}
.item{{display:flex;align-items:center;gap:{s.gap}px;padding:{s.gap // 2 + 2}px {s.gap + 6}px;
cursor:pointer;color:inherit;text-decoration:none;white-space:nowrap}}
.item:hover{{background:{s.raised}}} .item.on{{background:{s.accent};color:{s.on_accent}}}
.tab{{display:inline-flex;align-items:center;gap:{s.gap}px;cursor:pointer;white-space:nowrap;
padding:{s.gap // 2 + 3}px {s.gap + 7}px;border-bottom:2px solid transparent}}
.tab.on{{border-color:{s.accent};font-weight:bold;background:{s.surface}}}
.muted{{color:{s.muted}}} .small{{font-size:.85em}} .line{{border-top:1px solid {s.border}}}
.badge{{background:{s.raised};border:1px solid {s.border};border-radius:{max(s.radius, 3)}px;
padding:1px 7px;font-size:.85em;white-space:nowrap}}
.badge.hot{{background:{s.accent};color:{s.on_accent}}}
.float{{position:absolute;background:{s.surface};border:1px solid {s.border};
border-radius:{s.radius}px;box-shadow:0 6px 24px rgba(0,0,0,.4)}}
.dim{{position:absolute;inset:0;background:rgba(0,0,0,.5)}}
.mono{{font-family:'DejaVu Sans Mono','Liberation Mono',monospace}}
.cut{{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}}
h1,h2,h3,p{{margin:0 0 {s.gap}px}} table{{border-collapse:collapse;width:100%}}
td,th{{padding:{s.gap // 2 + 2}px {s.gap + 2}px;border-bottom:1px solid {s.border};text-align:left}}
svg{{flex:none}} img{{display:block}}
"""
